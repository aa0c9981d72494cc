/*-------------------------------------------------------------------------
 *
 * handshake.c
 *	  How a connection to a page server begins.
 *
 * A page server that takes long is given up after a while, and a cancel gets
 * through all the time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/libpq-be-fe-helpers.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "link.h"

/* A page server that takes longer to accept a connection is out of reach */
#define CONNECT_TIMEOUT_MS		10000

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
			zenith_link_note_failure("it does not answer");
			return 0;
		}
		ready = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
								  PQsocket(conn), Min(left, ZENITH_STARTUP_POLL_MS), zenith_wait_connect);
		if (ready & WL_LATCH_SET)
		{
			zenith_borrow_latch();
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
		zenith_link_note_failure(PQerrorMessage(conn));
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
			zenith_link_note_failure(PQerrorMessage(conn));
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
judge_refusal(const ZenithLink *link, PGconn *conn, PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	char		code[6];

	zenith_link_note_failure(detail ? detail : PQerrorMessage(conn));
	strlcpy(code, state ? state : "08006", sizeof(code));
	PQclear(result);

	if (strncmp(code, "22", 2) == 0 || strncmp(code, "28", 2) == 0 ||
		strncmp(code, "42601", 5) == 0)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4])),
				 errmsg("page server at %s refused the connection: %s",
						zenith_link_address(link), zenith_link_last_failure()),
				 zenith_timeline_detail()));
}

/*
 * Try once to connect.  False, and a reason noted, if it didn't work
 * but may work later; ERROR if the page server refuses us.
 */
bool
zenith_link_open(ZenithLink *link)
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
			zenith_link_note_failure("out of memory");
		}
		else if (finish_connecting(conn))
		{
			PGresult   *result = NULL;

			if (!PQsendQuery(conn, query))
				zenith_link_note_failure(PQerrorMessage(conn));
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
