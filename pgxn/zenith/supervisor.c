/*-------------------------------------------------------------------------
 *
 * supervisor.c
 *	  Requests to the process that runs this compute.
 *
 * One HTTP/1.0 exchange on a connection of its own: the peer closes it when
 * the answer is complete.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <unistd.h>

#include "common/ip.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "zenith.h"

#define ANSWER_TIMEOUT_MS 30000
#define MAX_ANSWER_BYTES (64 * 1024)

/* Wait until the socket is ready; fails after the time of the whole request. */
static void
wait_for(pgsocket sock, int events, TimestampTz deadline)
{
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			rc;

		if (left <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("the supervisor of this compute does not answer")));
		rc = WaitLatchOrSocket(MyLatch, events | WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   sock, left, zenith_wait_supervisor);
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (rc & events)
			return;
	}
}

static pgsocket
open_socket(TimestampTz deadline)
{
	char	   *host = pstrdup(zenith_supervisor_address);
	char	   *colon = strrchr(host, ':');
	struct addrinfo hints = {0};
	struct addrinfo *found = NULL;
	pgsocket	sock = PGINVALID_SOCKET;
	bool		started = false;

	if (colon)
	{
		*colon = '\0';
		hints.ai_flags = AI_NUMERICHOST;
		hints.ai_socktype = SOCK_STREAM;
		if (pg_getaddrinfo_all(host, colon + 1, &hints, &found) != 0)
			found = NULL;
	}
	if (found)
	{
		sock = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		started = sock != PGINVALID_SOCKET && pg_set_noblock(sock) &&
			(connect(sock, found->ai_addr, found->ai_addrlen) == 0 || errno == EINPROGRESS);
		pg_freeaddrinfo_all(hints.ai_family, found);
	}
	if (!started)
	{
		int			connect_errno = errno;

		if (sock != PGINVALID_SOCKET)
			closesocket(sock);
		errno = connect_errno;
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not connect to the supervisor of this compute at \"%s\": %m",
						zenith_supervisor_address)));
	}
	return sock;
}

static void
send_all(pgsocket sock, const char *data, size_t length, TimestampTz deadline)
{
	while (length > 0)
	{
		ssize_t		sent;

		wait_for(sock, WL_SOCKET_WRITEABLE, deadline);
		sent = send(sock, data, length, MSG_NOSIGNAL);
		if (sent > 0)
		{
			data += sent;
			length -= sent;
		}
		else if (errno != EAGAIN && errno != EINTR)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not send to the supervisor of this compute: %m")));
	}
}

static void
receive_all(pgsocket sock, StringInfo answer, TimestampTz deadline)
{
	char		buffer[4096];

	for (;;)
	{
		ssize_t		got;

		wait_for(sock, WL_SOCKET_READABLE, deadline);
		got = recv(sock, buffer, sizeof(buffer), 0);
		if (got == 0)
			return;
		if (got > 0 && answer->len + got <= MAX_ANSWER_BYTES)
			appendBinaryStringInfo(answer, buffer, got);
		else if (got > 0 || (errno != EAGAIN && errno != EINTR))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not receive from the supervisor of this compute")));
	}
}

/*
 * Send a POST without a body.  Returns the status of the answer (200 is
 * success), and its text in *text.  Can be cancelled; fails when nobody
 * answers.
 */
int
zenith_supervisor_post(const char *path, char **text)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ANSWER_TIMEOUT_MS);
	StringInfoData answer;
	char	   *request = psprintf("POST %s HTTP/1.0\r\nContent-Length: 0\r\n\r\n", path);
	pgsocket	sock = open_socket(deadline);
	char	   *body;
	int			status;

	initStringInfo(&answer);
	PG_TRY();
	{
		send_all(sock, request, strlen(request), deadline);
		receive_all(sock, &answer, deadline);
	}
	PG_FINALLY();
	{
		closesocket(sock);
	}
	PG_END_TRY();

	if (sscanf(answer.data, "HTTP/1.%*d %d", &status) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the supervisor of this compute gave no answer")));
	body = strstr(answer.data, "\r\n\r\n");
	*text = body ? body + 4 : "";
	return status;
}
