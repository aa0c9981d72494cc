/*-------------------------------------------------------------------------
 *
 * page_drop.c
 *	  What must be remembered or logged when a page leaves the buffer pool.
 *
 * A dirty page isn't stored anywhere when it is "written", since the page
 * server rebuilds it from WAL.  What is needed is the LSN up to which WAL must
 * have arrived there before the page may be read again, and WAL for what the
 * page holds beyond the WAL of its changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/bufpage.h"

#include "zenith.h"

typedef enum LogPermission
{
	LOG_NOTHING,
	LOG_RUNNING_TRANSACTIONS,	/* only what a running transaction needs */
	LOG_ANYTHING,
} LogPermission;

/*
 * May this process write WAL now?
 *
 * The shutdown checkpoint panics if WAL appears after it has begun.  Pages are
 * written then by the checkpointer itself; and walsenders are still there.  A
 * walsender that has got as far as its entry in shared memory is told to stop
 * before the checkpoint begins.  One that is just starting can't know, but no
 * transaction runs at that time except prepared ones.
 */
static LogPermission
log_permission(void)
{
	/* must come first: other tests make no sense in recovery */
	if (RecoveryInProgress() || !XLogInsertAllowed() || !IsUnderPostmaster)
		return LOG_NOTHING;
	if (AmCheckpointerProcess() && ShutdownRequestPending)
		return LOG_NOTHING;
	if (am_walsender)
	{
		if (MyWalSnd == NULL)
			return max_prepared_xacts == 0 ? LOG_RUNNING_TRANSACTIONS : LOG_NOTHING;
		if (MyWalSnd->state == WALSNDSTATE_STOPPING)
			return LOG_NOTHING;
		return LOG_RUNNING_TRANSACTIONS;
	}
	return LOG_ANYTHING;
}

/* Log a page that has no hole to leave out, but a lot of zeros. */
static XLogRecPtr
log_sparse_page(RelFileLocator locator, ForkNumber forknum, BlockNumber block, const char *page)
{
	int			saved = wal_compression;
	PGAlignedBlock image;
	XLogRecPtr	end;

	memcpy(image.data, page, BLCKSZ);
	if (saved == WAL_COMPRESSION_NONE)
		wal_compression = WAL_COMPRESSION_PGLZ;
	end = log_newpage(&locator, forknum, block, (Page) image.data, false);
	wal_compression = saved;
	zenith_lsn_set_writes(locator, end);
	return end;
}

/*
 * A heap page that was initialized and never used.  Nothing has been logged
 * and nothing is lost: heap initializes the page again when it finds zeros.
 */
static bool
is_empty_heap_page(const char *page)
{
	return PageIsEmpty((Page) page) && PageGetSpecialSize((Page) page) == 0;
}

static void
main_page_dropped(RelFileLocator locator, BlockNumber block, const char *page)
{
	XLogRecPtr	bound = PageGetLSN((Page) page);
	LogPermission permission = log_permission();

	if (bound < ZENITH_FIRST_REAL_LSN)
	{
		/* A page of an index build that hasn't been logged yet */
		if (is_empty_heap_page(page) ||
			zenith_side_write(locator, MAIN_FORKNUM, block, page))
		{
			zenith_file_cache_forget(locator, MAIN_FORKNUM, block, 1);
			return;
		}
		if (permission != LOG_ANYTHING)
			elog(ERROR, "could neither keep nor log block %u of relation %u/%u/%u",
				 block, locator.spcOid, locator.dbOid, locator.relNumber);
		bound = log_sparse_page(locator, MAIN_FORKNUM, block, page);
		zenith_lsn_set_block(locator, MAIN_FORKNUM, block, bound);
		zenith_file_cache_forget(locator, MAIN_FORKNUM, block, 1);
		return;
	}
	if (zenith_side_active())
		zenith_side_remove(locator, MAIN_FORKNUM, block);

	/*
	 * Marking a heap page all-visible is logged, but doesn't advance the LSN
	 * of the page.  The record has been inserted by now, because the buffer
	 * stays locked until then.
	 */
	if (PageIsAllVisible((Page) page))
		bound = Max(bound, zenith_insert_position());

	if (permission != LOG_NOTHING)
	{
		XLogRecPtr	end = zenith_log_transient_state(locator, MAIN_FORKNUM, block, page,
													 permission != LOG_ANYTHING);

		if (end > bound)
		{
			bound = end;
			zenith_lsn_set_writes(locator, end);
		}
	}
	zenith_lsn_set_block(locator, MAIN_FORKNUM, block, bound);
	zenith_sequence_dropped(locator, page);
	zenith_file_cache_put(locator, MAIN_FORKNUM, block, page);
}

/*
 * On a standby nothing is logged.  Redo changes a page without advancing its
 * LSN only to clear bits of the visibility map (and in ways that don't matter:
 * free space, all-visible flags, which a standby ignores).
 */
static void
standby_page_dropped(RelFileLocator locator, ForkNumber forknum,
					 BlockNumber block, const char *page)
{
	XLogRecPtr	bound = PageGetLSN((Page) page);

	if (zenith_mode == ZENITH_STATIC)
		return;					/* only hint bits have changed */
	if (forknum == VISIBILITYMAP_FORKNUM)
		bound = Max(bound, zenith_replay_position());
	zenith_lsn_set_block(locator, forknum, block, bound);
	if (PageIsNew((Page) page))
		zenith_file_cache_forget(locator, forknum, block, 1);
	else
		zenith_file_cache_put(locator, forknum, block, page);
}

/* A dirty page of a permanent relation is being written. */
void
zenith_page_dropped(RelFileLocator locator, ForkNumber forknum,
					BlockNumber block, const char *page)
{
	PGAlignedBlock copy;
	XLogRecPtr	lsn;

	zenith_count(ZENITH_PAGES_DROPPED, 1);

	/* Others may be setting hint bits in the buffer */
	memcpy(copy.data, page, BLCKSZ);
	lsn = PageGetLSN((Page) copy.data);

	if (RecoveryInProgress())
	{
		standby_page_dropped(locator, forknum, block, copy.data);
		return;
	}
	/* Its bound was set when the relation was extended by it */
	if (PageIsNew((Page) copy.data))
	{
		zenith_file_cache_forget(locator, forknum, block, 1);
		return;
	}

	switch (forknum)
	{
		case MAIN_FORKNUM:
			main_page_dropped(locator, block, copy.data);
			break;

		case FSM_FORKNUM:
			/* Never logged by Postgres.  Losing it costs space, not truth. */
			if (log_permission() == LOG_ANYTHING)
			{
				lsn = log_sparse_page(locator, forknum, block, copy.data);
				zenith_count(ZENITH_FSM_IMAGES, 1);
			}
			zenith_lsn_set_block(locator, forknum, block, lsn);
			zenith_file_cache_put(locator, forknum, block, copy.data);
			break;

		case INIT_FORKNUM:
			/* Not logged yet by an access method that leaves that to init_forks.c */
			if (lsn < ZENITH_FIRST_REAL_LSN && log_permission() == LOG_ANYTHING)
				lsn = log_sparse_page(locator, forknum, block, copy.data);
			zenith_lsn_set_block(locator, forknum, block, lsn);
			zenith_file_cache_put(locator, forknum, block, copy.data);
			break;

		case VISIBILITYMAP_FORKNUM:

			/*
			 * All changes are logged, but for one: CREATE DATABASE copies the
			 * page and logs it as if it were a standard page, whose middle is
			 * free.  That loses all bits, which are in memory now.  An image
			 * takes no more bytes than one or two records of such a page.
			 */
			if (log_permission() == LOG_ANYTHING)
			{
				lsn = Max(lsn, log_sparse_page(locator, forknum, block, copy.data));
				zenith_count(ZENITH_VM_IMAGES, 1);
			}
			zenith_lsn_set_block(locator, forknum, block, lsn);
			zenith_file_cache_put(locator, forknum, block, copy.data);
			break;

		default:
			zenith_lsn_set_block(locator, forknum, block, lsn);
			zenith_file_cache_put(locator, forknum, block, copy.data);
			break;
	}
}

/* A fork has been extended by zero pages. */
void
zenith_zero_pages_added(RelFileLocator locator, ForkNumber forknum,
						BlockNumber first, int count)
{
	static const PGAlignedBlock zeros = {{0}};
	BlockNumber last = first + count - 1;
	XLogRecPtr	end;

	if (RecoveryInProgress())
		end = zenith_replay_position();
	else if (log_permission() == LOG_NOTHING)
		end = zenith_insert_position();
	else
	{
		/* The last page tells the page server how large the fork is now */
		end = log_sparse_page(locator, forknum, last, zeros.data);
		zenith_count(ZENITH_EXTEND_IMAGES, 1);
	}
	for (BlockNumber block = first; block <= last; block++)
		zenith_lsn_set_block(locator, forknum, block, end);
	zenith_file_cache_forget(locator, forknum, first, count);
	zenith_lsn_set_size(locator, forknum, end);
}

/* A fork has been extended by a page with content. */
void
zenith_page_added(RelFileLocator locator, ForkNumber forknum,
				  BlockNumber block, const char *page)
{
	XLogRecPtr	lsn = PageGetLSN((Page) page);

	/* The page server knows the page if it is logged, else it needs to know its number */
	if (PageIsNew((Page) page) || lsn < ZENITH_FIRST_REAL_LSN)
		zenith_zero_pages_added(locator, forknum, block, 1);
	else
		zenith_lsn_set_size(locator, forknum,
							RecoveryInProgress() ? zenith_replay_position() : lsn);
	if (!PageIsNew((Page) page))
		zenith_page_dropped(locator, forknum, block, page);
}
