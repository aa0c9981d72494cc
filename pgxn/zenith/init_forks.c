/*-------------------------------------------------------------------------
 *
 * init_forks.c
 *	  Init forks of unlogged indexes that their access method doesn't log.
 *
 * An unlogged relation is emptied after a crash by copying its init fork, so
 * that fork must be in the WAL.  Access methods see to it themselves, but one
 * that writes it as Generic WAL doesn't (bloom): for an unlogged relation that
 * logs nothing, and stock Postgres is content that the page gets into a file at
 * the next checkpoint.  Here there is no file, so what a transaction has
 * written to init forks without WAL is logged before it commits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/memutils.h"

#include "zenith.h"

/* Relations whose init fork has grown in this transaction */
static List *grown = NIL;

/* An init fork has been extended. */
void
zenith_init_fork_grown(RelFileLocator locator)
{
	MemoryContext old;
	RelFileLocator *copy;
	ListCell   *cell;

	foreach(cell, grown)
	{
		if (RelFileLocatorEquals(*(RelFileLocator *) lfirst(cell), locator))
			return;
	}
	old = MemoryContextSwitchTo(TopTransactionContext);
	copy = palloc(sizeof(RelFileLocator));
	*copy = locator;
	grown = lappend(grown, copy);
	MemoryContextSwitchTo(old);
}

static void
log_init_fork(RelFileLocator locator)
{
	SMgrRelation reln = smgropen(locator, INVALID_PROC_NUMBER);
	BlockNumber nblocks;

	/* gone with a subtransaction? */
	if (!smgrexists(reln, INIT_FORKNUM))
		return;
	nblocks = smgrnblocks(reln, INIT_FORKNUM);
	for (BlockNumber block = 0; block < nblocks; block++)
	{
		Buffer		buffer = ReadBufferWithoutRelcache(locator, INIT_FORKNUM, block,
													   RBM_NORMAL, NULL, false);
		Page		page = BufferGetPage(buffer);

		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (!PageIsNew(page) && PageGetLSN(page) < ZENITH_FIRST_REAL_LSN)
		{
			START_CRIT_SECTION();
			MarkBufferDirty(buffer);
			log_newpage_buffer(buffer, false);
			END_CRIT_SECTION();
		}
		UnlockReleaseBuffer(buffer);
	}
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	ListCell   *cell;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			foreach(cell, grown)
				log_init_fork(*(RelFileLocator *) lfirst(cell));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			/* the memory goes with the transaction */
			grown = NIL;
			break;
		default:
			break;
	}
}

void
zenith_init_forks_register(void)
{
	RegisterXactCallback(at_end_of_transaction, NULL);
}
