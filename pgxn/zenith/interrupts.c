/*-------------------------------------------------------------------------
 *
 * interrupts.c
 *	  What must get through to a backend that waits for a page server.
 *
 * Such a backend may be anywhere in Postgres, and somebody further up may be
 * waiting for its latch, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/startup.h"
#include "storage/latch.h"
#include "storage/proc.h"

#include "zenith.h"

/* A latch that we reset in passing may have been set for somebody else */
static bool latch_was_set = false;

/* Reset the latch, for now. */
void
zenith_borrow_latch(void)
{
	ResetLatch(MyLatch);
	latch_was_set = true;
}

/* The wait is over: set the latch again if it was reset in passing. */
void
zenith_return_latch(void)
{
	if (latch_was_set)
	{
		latch_was_set = false;
		SetLatch(MyLatch);
	}
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
