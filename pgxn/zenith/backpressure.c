/*-------------------------------------------------------------------------
 *
 * backpressure.c
 *	  Slow writers down when the page server can't follow.
 *
 * All WAL that the page server hasn't made durable must be kept by the
 * safekeepers, and reads of fresh pages wait for it.  The WAL proposer, a
 * synchronous standby as far as Postgres knows, reports the page server's
 * position as its "apply" position.  If that is too far behind what has been
 * flushed here, backends sleep when they extend relations, when they evict
 * pages and before they commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "storage/proc.h"

#include "zenith.h"

#define SLEEP_MS 10

/* Look at the walsenders only every so many page writes */
#define CALLS_PER_LOOK 16

/*
 * How many bytes the page server is behind; 0 if nobody reports it, in which
 * case commits wait for the proposer anyhow.
 */
uint64
zenith_apply_lag(void)
{
	XLogRecPtr	flushed;
	XLogRecPtr	quorum;
	XLogRecPtr	applied;

	if (RecoveryInProgress() || !zenith_proposer_positions(&quorum, &applied))
		return 0;
	flushed = GetFlushRecPtr(NULL);
	return XLogRecPtrIsInvalid(applied) || applied > flushed ? 0 : flushed - applied;
}

static bool
must_wait(void)
{
	return zenith_max_apply_lag_mb > 0 &&
		zenith_apply_lag() > (uint64) zenith_max_apply_lag_mb * 1024 * 1024;
}

static void
wait_for_pageserver(void)
{
	bool		latch_was_set = false;

	do
	{
		instr_time	start;
		instr_time	end;
		int			woken;

		INSTR_TIME_SET_CURRENT(start);
		woken = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						  SLEEP_MS, zenith_wait_backpressure);
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		zenith_count(ZENITH_BACKPRESSURE_US, INSTR_TIME_GET_MICROSEC(end));
		if (woken & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latch_was_set = true;
			CHECK_FOR_INTERRUPTS();
		}
		/* With locks held, one nap is enough: others may be waiting for us */
	} while (InterruptHoldoffCount == 0 && must_wait());

	if (latch_was_set)
		SetLatch(MyLatch);
}

/* Sleep if need be.  Called by the storage manager's writers. */
void
zenith_backpressure(void)
{
	static int	calls = 0;

	if (++calls % CALLS_PER_LOOK != 0)
		return;
	/* Those that all others depend on never sleep */
	if (MyBackendType != B_BACKEND && MyBackendType != B_BG_WORKER &&
		MyBackendType != B_AUTOVAC_WORKER)
		return;
	if (CritSectionCount > 0 || !IsTransactionState())
		return;
	if (must_wait())
		wait_for_pageserver();
}

static void
before_commit(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT || !TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	if ((MyBackendType == B_BACKEND || MyBackendType == B_BG_WORKER) && must_wait())
		wait_for_pageserver();
}

void
zenith_backpressure_register(void)
{
	RegisterXactCallback(before_commit, NULL);
}
