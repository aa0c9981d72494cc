/*-------------------------------------------------------------------------
 *
 * page_stream.c
 *	  Requests and replies of the page stream, as bytes.
 *
 * They are CopyData messages.  Integers are big endian.
 *
 *	request: tag u8 | id u64 | request LSN u64 | not modified since u64, then
 *		'N'	spc u32 | db u32 | rel u32 | fork u8
 *		'D'	db u32
 *		'T'	spc u32
 *		'G'	spc u32 | db u32 | rel u32 | fork u8 | first block u32 | count u16
 *	reply: tag u8 | id u64 | LSN u64, then
 *		'n'	blocks u32
 *		'd'	bytes u64
 *		't'	bytes u64 | count u32 | count * (db u32)
 *		'g'	first block u32 | count u16 | count * 8192 bytes
 *		'x'	SQLSTATE 5 bytes | message, zero-terminated
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bswap.h"

#include "link.h"

#define REPLY_HEADER_SIZE	17

static char *
put16(char *at, uint16 value)
{
	value = pg_hton16(value);
	memcpy(at, &value, sizeof(value));
	return at + sizeof(value);
}

static char *
put32(char *at, uint32 value)
{
	value = pg_hton32(value);
	memcpy(at, &value, sizeof(value));
	return at + sizeof(value);
}

static char *
put64(char *at, uint64 value)
{
	value = pg_hton64(value);
	memcpy(at, &value, sizeof(value));
	return at + sizeof(value);
}

static uint16
get16(const char *at)
{
	uint16		value;

	memcpy(&value, at, sizeof(value));
	return pg_ntoh16(value);
}

static uint32
get32(const char *at)
{
	uint32		value;

	memcpy(&value, at, sizeof(value));
	return pg_ntoh32(value);
}

static uint64
get64(const char *at)
{
	uint64		value;

	memcpy(&value, at, sizeof(value));
	return pg_ntoh64(value);
}

int
zenith_encode_request(char *buffer, uint64 id, const ZenithRequest *request)
{
	char	   *at = buffer;

	*at++ = request->tag;
	at = put64(at, id);
	at = put64(at, request->request_lsn);
	at = put64(at, request->not_modified_since);
	if (request->tag == 'D')
		return put32(at, request->locator.dbOid) - buffer;

	at = put32(at, request->locator.spcOid);
	if (request->tag == 'T')
		return at - buffer;
	at = put32(at, request->locator.dbOid);
	at = put32(at, request->locator.relNumber);
	*at++ = (char) request->forknum;
	if (request->tag == 'G')
	{
		at = put32(at, request->block);
		at = put16(at, request->count);
	}
	return at - buffer;
}

/* NULL, or what is wrong with the message if it isn't a reply.  The reply points into the message. */
const char *
zenith_decode_reply(const char *message, int length, ZenithReply *reply)
{
	const char *body = message + REPLY_HEADER_SIZE;
	int			body_length = length - REPLY_HEADER_SIZE;
	bool		valid = false;

	memset(reply, 0, sizeof(*reply));
	if (body_length < 0)
		return "the page server sent a reply that is too short";
	reply->tag = message[0];
	reply->id = get64(message + 1);
	reply->lsn = get64(message + 9);
	switch (reply->tag)
	{
		case 'n':
			valid = body_length == 4;
			if (valid)
				reply->value = get32(body);
			break;
		case 'd':
			valid = body_length == 8;
			if (valid)
				reply->value = get64(body);
			break;
		case 't':
			valid = body_length >= 12;
			if (valid)
			{
				reply->value = get64(body);
				reply->database_count = get32(body + 8);
				reply->databases = body + 12;
				valid = body_length == 12 + (int64) reply->database_count * 4;
			}
			break;
		case 'g':
			valid = body_length >= 6;
			if (valid)
			{
				reply->block = get32(body);
				reply->count = get16(body + 4);
				reply->pages = body + 6;
				valid = body_length == 6 + reply->count * BLCKSZ;
			}
			break;
		case 'x':
			valid = body_length > 5 && body[body_length - 1] == '\0';
			if (valid)
			{
				reply->sqlstate = MAKE_SQLSTATE(body[0], body[1], body[2], body[3], body[4]);
				reply->message = body + 5;
			}
			break;
	}
	return valid ? NULL : "the page server sent a malformed reply";
}

/* One of the databases in a reply to 'T'. */
Oid
zenith_reply_database(const ZenithReply *reply, uint32 index)
{
	Assert(index < reply->database_count);
	return get32(reply->databases + (Size) index * 4);
}
