/*-------------------------------------------------------------------------
 *
 * link.c
 *	  The connection of a backend to one page server: requests out, replies in.
 *
 * Replies come in the order of the requests.  A connection that breaks is
 * closed and remembers nothing; handshake.c makes a new one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/libpq-be-fe-helpers.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#include "link.h"

/* How often somebody who waits for a reply asks whether the page server has moved */
#define MOVED_POLL_MS			1000

/* Positions in the wait event set */
#define SOCKET_EVENT 0

/* The message that the last ZenithReply points into, malloc'd by libpq */
static char *reply_message = NULL;

/* Why the connection broke, for the log and for the error after the timeout */
static char last_failure[512];

void
zenith_link_note_failure(const char *message)
{
	size_t		length;

	strlcpy(last_failure, message, sizeof(last_failure));
	length = strlen(last_failure);
	while (length > 0 && last_failure[length - 1] == '\n')
		last_failure[--length] = '\0';
}

const char *
zenith_link_last_failure(void)
{
	return last_failure;
}

/* "host:port" of the page server, for messages. */
const char *
zenith_link_address(const ZenithLink *link)
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
	if (link->shard_count > 1)
		snprintf(address, sizeof(address), "%s:%s (shard %d)", host ? host : "localhost",
				 port ? port : "5432", link->shard);
	else
		snprintf(address, sizeof(address), "%s:%s", host ? host : "localhost", port ? port : "5432");
	PQconninfoFree(options);
	return address;
}

void
zenith_link_close(ZenithLink *link)
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

static void
make_wait_set(ZenithLink *link)
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
wait_for_socket(ZenithLink *link, uint32 events, uint32 wait_event)
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
		if (WaitEventSetWait(link->wait_set, AmStartupProcess() ? ZENITH_STARTUP_POLL_MS : MOVED_POLL_MS,
							 &event, 1, wait_event) == 0)
		{
			zenith_check_interrupts();
			if (zenith_shard_map_changed())
			{
				zenith_link_note_failure("the tenant has moved to another page server");
				return false;
			}
			continue;
		}
		if (event.events & WL_LATCH_SET)
		{
			zenith_borrow_latch();
			zenith_check_interrupts();
			continue;
		}
		return true;
	}
}

/* Queue a request; false if the connection is broken. */
bool
zenith_link_put(ZenithLink *link, const ZenithRequest *request, uint64 *id)
{
	char		buffer[ZENITH_MAX_REQUEST_SIZE];
	int			length = zenith_encode_request(buffer, link->next_request_id, request);

	if (PQputCopyData(link->connection, buffer, length) != 1)
	{
		zenith_link_note_failure(PQerrorMessage(link->connection));
		return false;
	}
	*id = link->next_request_id++;
	return true;
}

/* Send what has been queued, as far as the socket takes it; false if the connection is broken. */
bool
zenith_link_flush(ZenithLink *link)
{
	if (PQflush(link->connection) >= 0)
		return true;
	zenith_link_note_failure(PQerrorMessage(link->connection));
	return false;
}

/*
 * Receive the next reply.  It points into reply_message.  False if the
 * connection is broken.
 */
bool
zenith_link_receive(ZenithLink *link, ZenithReply *reply, uint32 wait_event)
{
	const char *fault;
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
			zenith_link_note_failure(PQerrorMessage(link->connection));
			return false;
		}
		if (!wait_for_socket(link, unsent ? WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE :
							 WL_SOCKET_READABLE, wait_event))
			return false;
		if (!PQconsumeInput(link->connection))
		{
			zenith_link_note_failure(PQerrorMessage(link->connection));
			return false;
		}
	}
	if (length < 0)
	{
		/* The server has left copy mode, perhaps with a message */
		PGresult   *result = length == -1 ? PQgetResult(link->connection) : NULL;
		const char *message = result ? PQresultErrorMessage(result) : "";

		zenith_link_note_failure(*message ? message :
					 *PQerrorMessage(link->connection) ? PQerrorMessage(link->connection) :
					 "the page server ended the page stream");
		PQclear(result);
		return false;
	}
	fault = zenith_decode_reply(reply_message, length, reply);
	if (fault == NULL && reply->id != link->next_reply_id)
		fault = "the page server's replies are out of order";
	if (fault)
	{
		zenith_link_note_failure(fault);
		return false;
	}
	reply->shard = link->shard;
	link->next_reply_id++;
	return true;
}
