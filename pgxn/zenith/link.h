/*-------------------------------------------------------------------------
 *
 * link.h
 *	  What the parts of the way to the page servers tell each other; all others
 *	  use the functions of pageserver.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ZENITH_LINK_H
#define ZENITH_LINK_H

#include "libpq-fe.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "zenith.h"

/* How often the startup process, whose latch isn't set to stop it, looks up while it waits */
#define ZENITH_STARTUP_POLL_MS	500

/* The connection to one shard */
typedef struct ZenithLink
{
	int			shard;
	int			shard_count;
	/* a copy of what it was made with, or shall be; NULL = look it up */
	char	   *connstring;
	PGconn	   *connection;
	WaitEventSet *wait_set;
	Latch	   *wait_set_latch;
	uint32		wait_set_events;
	/* Ids count up and replies come in order, so these two tell what is missing */
	uint64		next_request_id;
	uint64		next_reply_id;
} ZenithLink;

/* page_stream.c: the bytes */
#define ZENITH_MAX_REQUEST_SIZE 64

extern int	zenith_encode_request(char *buffer, uint64 id, const ZenithRequest *request);
extern const char *zenith_decode_reply(const char *message, int length, ZenithReply *reply);

/* link.c: one connection */
extern void zenith_link_close(ZenithLink *link);
extern bool zenith_link_put(ZenithLink *link, const ZenithRequest *request, uint64 *id);
extern bool zenith_link_flush(ZenithLink *link);
extern bool zenith_link_receive(ZenithLink *link, ZenithReply *reply, uint32 wait_event);
extern void zenith_link_note_failure(const char *message);
extern const char *zenith_link_last_failure(void);
extern const char *zenith_link_address(const ZenithLink *link);

/* handshake.c: how it begins */
extern bool zenith_link_open(ZenithLink *link);

/* outage.c: how it is made again */
typedef struct ZenithOutage
{
	TimestampTz since;			/* 0 = all is well */
	int			delay_ms;
} ZenithOutage;

extern void zenith_outage_endure(const ZenithLink *link, ZenithOutage *outage);
extern bool zenith_outage_connect(ZenithLink *link, ZenithOutage *outage);
extern int	zenith_timeline_detail(void);

/* links.c: one per shard */
extern void zenith_links_follow(void);
extern ZenithLink *zenith_links_find(const ZenithRequest *request);
extern ZenithLink *zenith_links_of_shard(int shard);
extern void zenith_links_flush(const ZenithLink *but);
extern void zenith_links_close(void);

#endif							/* ZENITH_LINK_H */
