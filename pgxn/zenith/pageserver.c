/*-------------------------------------------------------------------------
 *
 * pageserver.c
 *	  Requests to the page servers, and their replies.
 *
 * Replies come in the order of the requests to the same shard.  So a reader
 * that waits for its reply gets those of earlier requests on the way: they
 * belong to readahead.c, or to a reader that was cancelled, and nobody cares
 * about the latter.
 *
 * If a connection breaks, the request at hand is sent again on a new one
 * (outage.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/errcodes.h"

#include "link.h"

/* Errors that may be gone when asked again: starting, stopping, overloaded. */
static bool
is_transient_error(const ZenithReply *reply)
{
	return reply->tag == 'x' &&
		(ERRCODE_TO_CATEGORY(reply->sqlstate) == ERRCODE_OPERATOR_INTERVENTION ||
		 ERRCODE_TO_CATEGORY(reply->sqlstate) == ERRCODE_CONNECTION_EXCEPTION);
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
	ZenithOutage outage = {0};
	uint32		wait_event = request->tag == 'G' ? zenith_wait_page : zenith_wait_size;

	for (;;)
	{
		ZenithLink *link;
		uint64		id = 0;
		bool		ok;

		zenith_links_follow();
		link = zenith_links_find(request);
		if (link->connection == NULL && !zenith_outage_connect(link, &outage))
			continue;
		ok = zenith_link_put(link, request, &id);
		if (ok && then_send)
		{
			then_send(arg);
			zenith_links_flush(link);
		}
		ok = ok && zenith_link_flush(link);
		while (ok && (ok = zenith_link_receive(link, reply, wait_event)))
		{
			if (reply->id == id)
				break;
			zenith_readahead_receive(link->shard, reply);
		}
		if (ok && is_transient_error(reply))
		{
			zenith_link_note_failure(reply->message);
			ok = false;
		}
		if (ok)
			break;
		zenith_link_close(link);
		zenith_outage_endure(link, &outage);
	}
	zenith_return_latch();
}

/*
 * Queue a request nobody waits for now.  Returns its id, or 0 if there is no
 * connection; this never makes one.
 */
uint64
zenith_pageserver_send_ahead(const ZenithRequest *request)
{
	ZenithLink *link = zenith_links_find(request);
	uint64		id;

	if (link == NULL || link->connection == NULL || !zenith_link_put(link, request, &id))
		return 0;
	return id;
}

/* Send what has been queued, as far as the sockets take it. */
void
zenith_pageserver_flush(void)
{
	zenith_links_flush(NULL);
}

/*
 * Receive a shard's replies until the one with this id has been handed to
 * readahead.c.  False if it will not come any more.
 */
bool
zenith_pageserver_await(int shard, uint64 id)
{
	ZenithLink *link = zenith_links_of_shard(shard);
	bool		ok = link != NULL;

	while (ok && link->connection && link->next_reply_id <= id)
	{
		ZenithReply reply;

		ok = zenith_link_receive(link, &reply, zenith_wait_readahead);
		if (ok)
			zenith_readahead_receive(shard, &reply);
		else
			zenith_link_close(link);
	}
	zenith_return_latch();
	return ok && link->connection != NULL;
}

/* The process ends. */
void
zenith_pageserver_shutdown(void)
{
	zenith_links_close();
}

/* Raise the page server's error. */
void
zenith_reply_error(const ZenithReply *reply, const char *what)
{
	const char *address = zenith_link_address(zenith_links_of_shard(reply->shard));

	if (reply->tag != 'x')
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("could not read %s: the page server at %s answered something else ('%c')",
						what, address, reply->tag)));
	ereport(ERROR,
			(errcode(reply->sqlstate),
			 errmsg("could not read %s: %s", what, reply->message),
			 errdetail("The page server at %s reported this.", address)));
}
