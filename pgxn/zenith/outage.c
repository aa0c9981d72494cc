/*-------------------------------------------------------------------------
 *
 * outage.c
 *	  What a request does while its page server is out of reach.
 *
 * It tries again on new connections, more and more slowly, for as long as
 * zenith.pageserver_outage_timeout allows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "link.h"

#define FIRST_RETRY_DELAY_MS	20
#define MAX_RETRY_DELAY_MS		1000

int
zenith_timeline_detail(void)
{
	return errdetail("It was asked for timeline %s of tenant %s.",
					 zenith_timeline_id, zenith_tenant_id);
}

static int
pageserver_hint(const ZenithLink *link)
{
	return errhint("Check that the page server at %s is running; zenith.pageserver_connstring names it.",
				   zenith_link_address(link));
}

/* Connection lost, or not to be had: wait, or give up with an error. */
void
zenith_outage_endure(const ZenithLink *link, ZenithOutage *outage)
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
						zenith_link_address(link), zenith_link_last_failure()),
				 errdetail("Trying again, for timeline %s of tenant %s.",
						   zenith_timeline_id, zenith_tenant_id)));
	}
	else if (zenith_outage_timeout_s > 0 && CritSectionCount == 0 && !AmStartupProcess() &&
			 TimestampDifferenceExceeds(outage->since, now, zenith_outage_timeout_s * 1000))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not reach the page server at %s for %d seconds: %s",
						zenith_link_address(link), zenith_outage_timeout_s,
						zenith_link_last_failure()),
				 zenith_timeline_detail(),
				 pageserver_hint(link)));

	/* spread the backends, so that they don't all come at once */
	delay_ms = outage->delay_ms / 2 +
		(int) pg_prng_uint64_range(&pg_global_prng_state, 0, outage->delay_ms / 2);
	outage->delay_ms = Min(outage->delay_ms * 2, MAX_RETRY_DELAY_MS);

	if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				  delay_ms, zenith_wait_reconnect) & WL_LATCH_SET)
		zenith_borrow_latch();
	zenith_check_interrupts();
}

/*
 * Connect, or wait a while; false means that the page server may be another
 * one by now.
 */
bool
zenith_outage_connect(ZenithLink *link, ZenithOutage *outage)
{
	if (!zenith_link_open(link))
	{
		zenith_outage_endure(link, outage);
		return false;
	}
	if (outage->since != 0)
		ereport(LOG,
				(errmsg("connected to the page server at %s again after %ld ms",
						zenith_link_address(link),
						TimestampDifferenceMilliseconds(outage->since, GetCurrentTimestamp()))));
	return true;
}
