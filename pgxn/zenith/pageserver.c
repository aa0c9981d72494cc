/*-------------------------------------------------------------------------
 *
 * pageserver.c
 *	  The backend's connections to the page servers, and the page stream.
 *
 * Requests and replies are CopyData messages on libpq connections of each
 * backend, one per shard of the tenant (see shard_map.c), made when they are
 * first needed.  Integers are big endian.
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
 * Replies come in the order of the requests to the same shard.  So a reader
 * that waits for its reply gets those of earlier requests on the way: they
 * belong to readahead.c, or to a reader that was cancelled, and nobody cares
 * about the latter.
 *
 * If a connection breaks, the request at hand is sent again on a new one,
 * for as long as zenith.pageserver_outage_timeout allows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "libpq-fe.h"
#include "libpq/libpq-be-fe-helpers.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "postmaster/startup.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "zenith.h"

#define REPLY_HEADER_SIZE	17
#define GETPAGE_HEADER_SIZE (REPLY_HEADER_SIZE + 6)
#define MAX_REQUEST_SIZE	64

#define FIRST_RETRY_DELAY_MS	20
#define MAX_RETRY_DELAY_MS		1000
#define STARTUP_POLL_MS			500

/* How often somebody who waits for a reply asks whether the page server has moved */
#define MOVED_POLL_MS			1000

/* A page server that takes longer to accept a connection is out of reach */
#define CONNECT_TIMEOUT_MS		10000

/* Positions in the wait event set */
#define SOCKET_EVENT 0

/* The connection to one shard */
typedef struct Link
{
	int			shard;
	/* a copy of what it was made with, or shall be; NULL = look it up */
	char	   *connstring;
	PGconn	   *connection;
	WaitEventSet *wait_set;
	Latch	   *wait_set_latch;
	uint32		wait_set_events;
	/* Ids count up and replies come in order, so these two tell what is missing */
	uint64		next_request_id;
	uint64		next_reply_id;
} Link;

static Link *links = NULL;
static int	link_count = 0;

/* The message that the last ZenithReply points into, malloc'd by libpq */
static char *reply_message = NULL;

/* A latch that we reset in passing may have been set for somebody else */
static bool latch_was_set = false;

/* Why the connection broke, for the log and for the error after the timeout */
static char last_failure[512];

static void
note_failure(const char *message)
{
	size_t		length;

	strlcpy(last_failure, message, sizeof(last_failure));
	length = strlen(last_failure);
	while (length > 0 && last_failure[length - 1] == '\n')
		last_failure[--length] = '\0';
}

/* "host:port" of the page server, for messages. */
static const char *
pageserver_address(const Link *link)
{
	static char address[256];
	PQconninfoOption *options = PQconninfoParse(link->connstring, NULL);
	const char *host = NULL;
	const char *port = NULL;

	for (PQconninfoOption *option = options; option && option->keyword; option++)
	{
		if (option->val == NULL)
			continue;
		if (strcmp(option->keyword, "host") == 0 ||
			(strcmp(option->keyword, "hostaddr") == 0 && host == NULL))
			host = option->val;
		else if (strcmp(option->keyword, "port") == 0)
			port = option->val;
	}
	if (link_count > 1)
		snprintf(address, sizeof(address), "%s:%s (shard %d)", host ? host : "localhost",
				 port ? port : "5432", link->shard);
	else
		snprintf(address, sizeof(address), "%s:%s", host ? host : "localhost", port ? port : "5432");
	PQconninfoFree(options);
	return address;
}

static int
timeline_detail(void)
{
	return errdetail("It was asked for timeline %s of tenant %s.",
					 zenith_timeline_id, zenith_tenant_id);
}

static int
pageserver_hint(const Link *link)
{
	return errhint("Check that the page server at %s is running; zenith.pageserver_connstring names it.",
				   pageserver_address(link));
}

/*
 * Like CHECK_FOR_INTERRUPTS(), but a cancel gets through to a reader that
 * holds LWLocks, too: a failing read is legal there, and otherwise nothing
 * could stop a backend whose page server is gone.  Not so in critical sections
 * and while a transaction is ending, where an error would be a panic.
 */
void
zenith_check_interrupts(void)
{
	/* a standby that is being stopped may be waiting for a page to replay */
	if (AmStartupProcess())
		HandleStartupProcInterrupts();
	CHECK_FOR_INTERRUPTS();

	if (unlikely(InterruptPending && (QueryCancelPending || ProcDiePending)) &&
		InterruptHoldoffCount > 0 && CritSectionCount == 0 && IsTransactionState())
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling statement while it waits for the page server")));
}

static void
disconnect(Link *link)
{
	if (link->wait_set)
	{
		FreeWaitEventSet(link->wait_set);
		link->wait_set = NULL;
	}
	if (link->connection)
	{
		PGconn	   *conn = link->connection;

		link->connection = NULL;
		libpqsrv_disconnect(conn);
	}
	zenith_readahead_reset(link->shard);
	link->next_reply_id = link->next_request_id;
}

/*
 * Follow the shard map: connections to page servers that are not in it any
 * more end.
 */
static void
follow_shard_map(void)
{
	int			count;

	if (!zenith_shard_map_follow() && links != NULL)
		return;
	count = zenith_shard_count();
	for (int i = 0; i < link_count; i++)
	{
		Link	   *link = &links[i];

		/* with another number of shards every name is another one */
		if (count == link_count && strcmp(link->connstring, zenith_shard_connstring(i)) == 0)
			continue;
		disconnect(link);
	}
	if (count != link_count)
	{
		Link	   *grown = MemoryContextAllocZero(TopMemoryContext, count * sizeof(Link));

		for (int i = 0; i < count; i++)
		{
			grown[i].shard = i;
			grown[i].next_request_id = i < link_count ? links[i].next_request_id : 1;
			grown[i].next_reply_id = grown[i].next_request_id;
			grown[i].connstring = i < link_count ? links[i].connstring : NULL;
		}
		for (int i = count; i < link_count; i++)
			pfree(links[i].connstring);
		if (links)
			pfree(links);
		links = grown;
		link_count = count;
	}
	for (int i = 0; i < count; i++)
	{
		char	   *copy = MemoryContextStrdup(TopMemoryContext, zenith_shard_connstring(i));

		if (links[i].connstring)
			pfree(links[i].connstring);
		links[i].connstring = copy;
	}
}

/* Where a request goes: blocks to their shard, all else to shard 0. */
static Link *
link_of(const ZenithRequest *request)
{
	if (request->tag != 'G')
		return &links[0];
	return &links[zenith_shard_of_block(request->locator, request->forknum, request->block)];
}

static void
make_wait_set(Link *link)
{
	if (link->wait_set)
		FreeWaitEventSet(link->wait_set);
	link->wait_set = CreateWaitEventSet(NULL, 3);
	AddWaitEventToSet(link->wait_set, WL_SOCKET_READABLE, PQsocket(link->connection), NULL, NULL);
	AddWaitEventToSet(link->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(link->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	link->wait_set_latch = MyLatch;
	link->wait_set_events = WL_SOCKET_READABLE;
}

/*
 * Wait until the socket can be read (or also written).  False if it can't for
 * a while, and a page server is elsewhere by now.
 */
static bool
wait_for_socket(Link *link, uint32 events, uint32 wait_event)
{
	if (link->wait_set == NULL || link->wait_set_latch != MyLatch)
		make_wait_set(link);
	if (events != link->wait_set_events)
	{
		ModifyWaitEvent(link->wait_set, SOCKET_EVENT, events, NULL);
		link->wait_set_events = events;
	}
	for (;;)
	{
		WaitEvent	event;

		/* what stops the startup process doesn't set its latch */
		if (WaitEventSetWait(link->wait_set, AmStartupProcess() ? STARTUP_POLL_MS : MOVED_POLL_MS,
							 &event, 1, wait_event) == 0)
		{
			zenith_check_interrupts();
			if (zenith_shard_map_changed())
			{
				note_failure("the tenant has moved to another page server");
				return false;
			}
			continue;
		}
		if (event.events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latch_was_set = true;
			zenith_check_interrupts();
			continue;
		}
		return true;
	}
}

/* Wait for the socket of a new connection; 0 after the deadline. */
static int
wait_to_connect(PGconn *conn, int events, TimestampTz deadline)
{
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			ready;

		if (left <= 0)
		{
			note_failure("it does not answer");
			return 0;
		}
		ready = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
								  PQsocket(conn), Min(left, STARTUP_POLL_MS), zenith_wait_connect);
		if (ready & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latch_was_set = true;
		}
		zenith_check_interrupts();
		if (ready & WL_SOCKET_MASK)
			return ready;
	}
}

/*
 * Like libpqsrv_connect_params() and libpqsrv_get_result(), but a server that
 * accepts connections and doesn't answer is given up after a while, and a
 * cancel gets through in spite of LWLocks.  False if the connection is of no
 * use.
 */
static bool
finish_connecting(PGconn *conn)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CONNECT_TIMEOUT_MS);

	if (PQstatus(conn) == CONNECTION_BAD)
		status = PGRES_POLLING_FAILED;
	while (status == PGRES_POLLING_READING || status == PGRES_POLLING_WRITING)
	{
		if (!wait_to_connect(conn, status == PGRES_POLLING_READING ? WL_SOCKET_READABLE :
							 WL_SOCKET_WRITEABLE, deadline))
			return false;
		status = PQconnectPoll(conn);
	}
	if (status != PGRES_POLLING_OK)
	{
		note_failure(PQerrorMessage(conn));
		return false;
	}
	return true;
}

/* The answer to a query, or NULL if there is none in time. */
static PGresult *
await_result(PGconn *conn)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CONNECT_TIMEOUT_MS);

	while (PQisBusy(conn))
	{
		if (!wait_to_connect(conn, WL_SOCKET_READABLE, deadline))
			return NULL;
		if (!PQconsumeInput(conn))
		{
			note_failure(PQerrorMessage(conn));
			return NULL;
		}
	}
	return PQgetResult(conn);
}

/*
 * A page server that has just started doesn't have our timeline yet, so be
 * patient unless it can't understand or doesn't trust us.
 */
static void
judge_refusal(const Link *link, PGconn *conn, PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	char		code[6];

	note_failure(detail ? detail : PQerrorMessage(conn));
	strlcpy(code, state ? state : "08006", sizeof(code));
	PQclear(result);

	if (strncmp(code, "22", 2) == 0 || strncmp(code, "28", 2) == 0 ||
		strncmp(code, "42601", 5) == 0)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4])),
				 errmsg("page server at %s refused the connection: %s",
						pageserver_address(link), last_failure),
				 timeline_detail()));
}

/*
 * Try once to connect.  False, and a text in last_failure, if it didn't work
 * but may work later; ERROR if the page server refuses us.
 */
static bool
connect_once(Link *link)
{
	const char *keywords[] = {
		"user", "application_name", "sslmode", "gssencmode",
		"keepalives_idle", "keepalives_interval", "keepalives_count",
		"tcp_user_timeout", "dbname", NULL
	};
	const char *values[] = {
		"zenith", "zenith_compute", "disable", "disable",
		"10", "5", "4",
		"30000", link->connstring, NULL
	};
	char		shard_name[64];
	char		query[128];
	PGconn	   *volatile conn = NULL;
	volatile bool connected = false;

	zenith_shard_name(link->shard, shard_name, sizeof(shard_name));
	snprintf(query, sizeof(query), "pagestream %s %s", shard_name, zenith_timeline_id);

	/* later entries win, so the connection string overrides the defaults */
	libpqsrv_connect_prepare();
	conn = PQconnectStartParams(keywords, values, true);
	PG_TRY();
	{
		if (conn == NULL)
		{
			ReleaseExternalFD();
			note_failure("out of memory");
		}
		else if (finish_connecting(conn))
		{
			PGresult   *result = NULL;

			if (!PQsendQuery(conn, query))
				note_failure(PQerrorMessage(conn));
			else
				result = await_result(conn);
			if (PQresultStatus(result) == PGRES_COPY_BOTH)
			{
				connected = PQsetnonblocking(conn, 1) == 0;
				PQclear(result);
			}
			else if (result)
				judge_refusal(link, conn, result);
		}
	}
	PG_CATCH();
	{
		libpqsrv_disconnect(conn);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (!connected)
	{
		libpqsrv_disconnect(conn);
		return false;
	}
	link->connection = conn;
	link->next_reply_id = link->next_request_id;
	return true;
}

/* State of the retries of one call */
typedef struct Outage
{
	TimestampTz since;			/* 0 = all is well */
	int			delay_ms;
} Outage;

/* Connection lost, or not to be had: wait, or give up with an error. */
static void
endure_outage(const Link *link, Outage *outage)
{
	TimestampTz now = GetCurrentTimestamp();
	int			delay_ms;

	if (outage->since == 0)
	{
		outage->since = now;
		outage->delay_ms = FIRST_RETRY_DELAY_MS;
		zenith_count(ZENITH_RECONNECTS, 1);
		ereport(LOG,
				(errmsg("no connection to the page server at %s: %s",
						pageserver_address(link), last_failure),
				 errdetail("Trying again, for timeline %s of tenant %s.",
						   zenith_timeline_id, zenith_tenant_id)));
	}
	else if (zenith_outage_timeout_s > 0 && CritSectionCount == 0 && !AmStartupProcess() &&
			 TimestampDifferenceExceeds(outage->since, now, zenith_outage_timeout_s * 1000))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not reach the page server at %s for %d seconds: %s",
						pageserver_address(link), zenith_outage_timeout_s, last_failure),
				 timeline_detail(),
				 pageserver_hint(link)));

	/* spread the backends, so that they don't all come at once */
	delay_ms = outage->delay_ms / 2 +
		(int) pg_prng_uint64_range(&pg_global_prng_state, 0, outage->delay_ms / 2);
	outage->delay_ms = Min(outage->delay_ms * 2, MAX_RETRY_DELAY_MS);

	if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				  delay_ms, zenith_wait_reconnect) & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		latch_was_set = true;
	}
	zenith_check_interrupts();
}

/*
 * Connect, or wait a while; false means that the page server may be another
 * one by now.
 */
static bool
connect_or_wait(Link *link, Outage *outage)
{
	if (!connect_once(link))
	{
		endure_outage(link, outage);
		return false;
	}
	if (outage->since != 0)
		ereport(LOG,
				(errmsg("connected to the page server at %s again after %ld ms",
						pageserver_address(link),
						TimestampDifferenceMilliseconds(outage->since, GetCurrentTimestamp()))));
	return true;
}

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

static int
encode_request(char *buffer, uint64 id, const ZenithRequest *request)
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

/* False, with the reason in last_failure, if the message isn't a reply. */
static bool
decode_reply(const Link *link, const char *message, int length, ZenithReply *reply)
{
	const char *body = message + REPLY_HEADER_SIZE;
	int			body_length = length - REPLY_HEADER_SIZE;
	bool		valid = false;

	memset(reply, 0, sizeof(*reply));
	reply->shard = link->shard;
	if (body_length < 0)
	{
		note_failure("the page server sent a reply that is too short");
		return false;
	}
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
	if (!valid)
		note_failure("the page server sent a malformed reply");
	else if (reply->id != link->next_reply_id)
	{
		note_failure("the page server's replies are out of order");
		valid = false;
	}
	return valid;
}

/* One of the databases in a reply to 'T'. */
Oid
zenith_reply_database(const ZenithReply *reply, uint32 index)
{
	Assert(index < reply->database_count);
	return get32(reply->databases + (Size) index * 4);
}

/* Queue a request; false if the connection is broken. */
static bool
put_request(Link *link, const ZenithRequest *request, uint64 *id)
{
	char		buffer[MAX_REQUEST_SIZE];
	int			length = encode_request(buffer, link->next_request_id, request);

	if (PQputCopyData(link->connection, buffer, length) != 1)
	{
		note_failure(PQerrorMessage(link->connection));
		return false;
	}
	*id = link->next_request_id++;
	return true;
}

/*
 * Receive the next reply.  It points into reply_message.  False if the
 * connection is broken.
 */
static bool
receive_reply(Link *link, ZenithReply *reply, uint32 wait_event)
{
	int			length;

	if (reply_message)
	{
		PQfreemem(reply_message);
		reply_message = NULL;
	}
	while ((length = PQgetCopyData(link->connection, &reply_message, 1)) == 0)
	{
		int			unsent = PQflush(link->connection);

		if (unsent < 0)
		{
			note_failure(PQerrorMessage(link->connection));
			return false;
		}
		if (!wait_for_socket(link, unsent ? WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE :
							 WL_SOCKET_READABLE, wait_event))
			return false;
		if (!PQconsumeInput(link->connection))
		{
			note_failure(PQerrorMessage(link->connection));
			return false;
		}
	}
	if (length < 0)
	{
		/* The server has left copy mode, perhaps with a message */
		PGresult   *result = length == -1 ? PQgetResult(link->connection) : NULL;
		const char *message = result ? PQresultErrorMessage(result) : "";

		note_failure(*message ? message :
					 *PQerrorMessage(link->connection) ? PQerrorMessage(link->connection) :
					 "the page server ended the page stream");
		PQclear(result);
		return false;
	}
	if (!decode_reply(link, reply_message, length, reply))
		return false;
	link->next_reply_id++;
	return true;
}

/* Errors that may be gone when asked again: starting, stopping, overloaded. */
static bool
is_transient_error(const ZenithReply *reply)
{
	return reply->tag == 'x' &&
		(ERRCODE_TO_CATEGORY(reply->sqlstate) == ERRCODE_OPERATOR_INTERVENTION ||
		 ERRCODE_TO_CATEGORY(reply->sqlstate) == ERRCODE_CONNECTION_EXCEPTION);
}

/*
 * Send what has been queued for other shards than the one that is waited for;
 * a connection that breaks is made anew when somebody needs it.
 */
static void
flush_others(const Link *but)
{
	for (int i = 0; i < link_count; i++)
	{
		Link	   *link = &links[i];

		if (link == but || link->connection == NULL || PQflush(link->connection) >= 0)
			continue;
		note_failure(PQerrorMessage(link->connection));
		disconnect(link);
	}
}

/*
 * Send a request and wait for its reply, which is valid until the next call.
 *
 * then_send is called after the request has been queued and may queue more of
 * them with zenith_pageserver_send_ahead(), so that they travel together.
 */
void
zenith_pageserver_call(const ZenithRequest *request, ZenithReply *reply,
					   void (*then_send) (void *), void *arg)
{
	Outage		outage = {0};
	uint32		wait_event = request->tag == 'G' ? zenith_wait_page : zenith_wait_size;

	for (;;)
	{
		Link	   *link;
		uint64		id = 0;
		bool		ok;

		follow_shard_map();
		link = link_of(request);
		if (link->connection == NULL && !connect_or_wait(link, &outage))
			continue;
		ok = put_request(link, request, &id);
		if (ok && then_send)
		{
			then_send(arg);
			flush_others(link);
		}
		if (ok && PQflush(link->connection) < 0)
		{
			note_failure(PQerrorMessage(link->connection));
			ok = false;
		}
		while (ok && (ok = receive_reply(link, reply, wait_event)))
		{
			if (reply->id == id)
				break;
			zenith_readahead_receive(link->shard, reply);
		}
		if (ok && is_transient_error(reply))
		{
			note_failure(reply->message);
			ok = false;
		}
		if (ok)
			break;
		disconnect(link);
		endure_outage(link, &outage);
	}
	if (latch_was_set)
	{
		latch_was_set = false;
		SetLatch(MyLatch);
	}
}

/*
 * Queue a request nobody waits for now.  Returns its id, or 0 if there is no
 * connection; this never makes one.
 */
uint64
zenith_pageserver_send_ahead(const ZenithRequest *request)
{
	Link	   *link;
	uint64		id;

	if (links == NULL)
		return 0;
	link = link_of(request);
	if (link->connection == NULL || !put_request(link, request, &id))
		return 0;
	return id;
}

/* Send what has been queued, as far as the sockets take it. */
void
zenith_pageserver_flush(void)
{
	flush_others(NULL);
}

/*
 * Receive a shard's replies until the one with this id has been handed to
 * readahead.c.  False if it will not come any more.
 */
bool
zenith_pageserver_await(int shard, uint64 id)
{
	Link	   *link = &links[shard];
	bool		ok = shard < link_count;

	while (ok && link->connection && link->next_reply_id <= id)
	{
		ZenithReply reply;

		ok = receive_reply(link, &reply, zenith_wait_readahead);
		if (ok)
			zenith_readahead_receive(shard, &reply);
		else
			disconnect(link);
	}
	if (latch_was_set)
	{
		latch_was_set = false;
		SetLatch(MyLatch);
	}
	return ok && link->connection != NULL;
}

/* The process ends. */
void
zenith_pageserver_shutdown(void)
{
	for (int i = 0; i < link_count; i++)
		disconnect(&links[i]);
}

/* Raise the page server's error. */
void
zenith_reply_error(const ZenithReply *reply, const char *what)
{
	if (reply->tag != 'x')
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("could not read %s: the page server at %s answered something else ('%c')",
						what, pageserver_address(&links[reply->shard]), reply->tag)));
	ereport(ERROR,
			(errcode(reply->sqlstate),
			 errmsg("could not read %s: %s", what, reply->message),
			 errdetail("The page server at %s reported this.",
					   pageserver_address(&links[reply->shard]))));
}
