/*-------------------------------------------------------------------------
 *
 * standby.c
 *	  What is different in a compute that only reads: a hot standby, which
 *	  replays WAL that another compute writes, or a static one, which shows one
 *	  LSN for ever.
 *
 * A hot standby replays a change of a page only if it has the page in its
 * buffer pool.  For any other page it is enough to remember the LSN of the
 * change, since the page server makes the page with it when it is read.
 *
 * The decision must be safe against somebody who is just reading the page in.
 * A reader enters the page into the buffer mapping before it finds out how new
 * the page must be (zenith_read_range).  We hold the lock of that part of the
 * mapping while we look for the page and until the LSN has been raised.  So
 * either we see the reader's entry, and redo waits for the read to end and
 * works on the result, or the reader sees the LSN.
 *
 * Redo resolves conflicts with queries before it touches pages, so a page whose
 * LSN we have raised may be shown as of the record that is being replayed.
 * That doesn't hold for pages of the visibility map: redo clears their bits
 * without an LSN, so the LSN that we keep for one when it leaves the buffer
 * pool may be that of any record under replay.  Their readers wait until the
 * record is through.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlogreader.h"
#include "access/xlogrecovery.h"
#include "access/xlogutils.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_tablespace_d.h"
#include "miscadmin.h"
#include "postmaster/startup.h"
#include "storage/buf_internals.h"
#include "storage/latch.h"
#include "utils/fmgroids.h"
#include "utils/wait_event.h"

#include "zenith.h"

#define FIRST_WAIT_MS	1
#define LAST_WAIT_MS	20

/* A block of the map covers 4000 blocks of its relation */
#define MAX_ADDED_BLOCKS 256

static object_access_hook_type previous_object_access_hook = NULL;

static bool
is_in_buffers_or_mark(const BufferTag *tag, XLogRecPtr lsn)
{
	uint32		hash = BufTableHashCode((BufferTag *) tag);
	LWLock	   *lock = BufMappingPartitionLock(hash);
	bool		found;

	LWLockAcquire(lock, LW_SHARED);
	found = BufTableLookup((BufferTag *) tag, hash) >= 0;
	if (!found)
	{
		RelFileLocator locator = BufTagGetRelFileLocator(tag);

		zenith_lsn_set_block(locator, BufTagGetForkNum(tag), tag->blockNum, lsn);
		zenith_file_cache_forget(locator, BufTagGetForkNum(tag), tag->blockNum, 1);
	}
	LWLockRelease(lock);
	return found;
}

/*
 * Called by redo, in the startup process, before it reads a block that the
 * record changes and doesn't carry whole.
 */
static bool
skip_block(XLogReaderState *record, RelFileLocator locator, ForkNumber forknum,
		   BlockNumber block)
{
	BufferTag	tag;

	/* a block that is changed exists, whatever we have heard of its fork */
	zenith_size_raise(locator, forknum, block + 1);

	/* what every backend needs to get going is kept up to date in any case */
	if (locator.spcOid == GLOBALTABLESPACE_OID)
		return false;
	InitBufferTag(&tag, &locator, forknum, block);
	if (is_in_buffers_or_mark(&tag, record->EndRecPtr))
		return false;
	zenith_count(ZENITH_REDO_SKIPPED, 1);
	return true;
}

/*
 * Redo adds pages to free space maps of its own accord, which the page server
 * doesn't know.  If the size of one has been forgotten and is asked of it
 * again, those pages may still be in the buffer pool, and adding them once more
 * would fail ("unexpected data beyond EOF").
 */
BlockNumber
zenith_count_in_buffers(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks)
{
	BlockNumber first = nblocks == InvalidBlockNumber ? 0 : nblocks;

	for (BlockNumber block = first; block < first + MAX_ADDED_BLOCKS; block++)
	{
		BufferTag	tag;
		uint32		hash;
		LWLock	   *lock;

		InitBufferTag(&tag, &locator, forknum, block);
		hash = BufTableHashCode(&tag);
		lock = BufMappingPartitionLock(hash);
		LWLockAcquire(lock, LW_SHARED);
		if (BufTableLookup(&tag, hash) >= 0)
			nblocks = block + 1;
		LWLockRelease(lock);
	}
	return nblocks;
}

/*
 * Wait until everything up to an LSN has been replayed.  The startup process
 * itself doesn't wait, nor does anybody who waits for it with a promise not to
 * be interrupted: those read what they need as of the LSN.
 */
void
zenith_wait_for_replay(XLogRecPtr lsn)
{
	int			wait_ms = FIRST_WAIT_MS;

	if (AmStartupProcess() || CritSectionCount > 0)
		return;
	while (GetXLogReplayRecPtr(NULL) < lsn)
	{
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					  wait_ms, zenith_wait_replay) & WL_LATCH_SET)
			ResetLatch(MyLatch);
		zenith_check_interrupts();
		wait_ms = Min(wait_ms * 2, LAST_WAIT_MS);
	}
}

/*
 * A promoted server would write on a Postgres timeline of its own, which
 * nobody stores.  Its branch is promoted from outside instead.
 */
static void
refuse_promotion(ObjectAccessType access, Oid classId, Oid objectId, int subId, void *arg)
{
	if (previous_object_access_hook)
		previous_object_access_hook(access, classId, objectId, subId, arg);

	if (access == OAT_FUNCTION_EXECUTE && classId == ProcedureRelationId &&
		objectId == F_PG_PROMOTE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a read-only compute cannot be promoted from within"),
				 zenith_mode == ZENITH_REPLICA ?
				 errhint("Use \"zenith pg promote <name>\": it stops the primary of the branch and lets this compute take its place.") :
				 errhint("To write from this state on, make a branch of it.")));
}

void
zenith_standby_register(void)
{
	if (zenith_mode == ZENITH_PRIMARY)
		return;
	if (zenith_mode == ZENITH_REPLICA)
		redo_skip_block_hook = skip_block;
	previous_object_access_hook = object_access_hook;
	object_access_hook = refuse_promotion;
}
