/*
 * redo_smgr.c
 *		The storage manager of the WAL redo process: one real page.
 *
 * Redo routines change pages in shared buffers.  Here exactly one block, the
 * target, has true contents.  Every other block is a decoy: an initialized
 * empty page with the highest LSN there is, so that redo finds it "already
 * applied" (BLK_DONE) and leaves it alone.  Most decoys are not even read,
 * since the core's redo_skip_block_hook says "not found" for them.
 *
 * A record may still overwrite a decoy: blocks that it initializes or carries
 * as an image, the visibility map and the free space map.  Such a page would
 * be half-updated for the next record of the chain, so after every record all
 * dirty decoys are made decoys again.  That happens inside the buffer: with
 * one process and no concurrency there is no need to evict and read back, and
 * nothing is ever flushed.
 *
 * The callbacks are there for the case that a record touches more blocks than
 * there are buffers: then the target is kept in `evicted_page`.
 */
#include "postgres.h"

#include "access/xlogutils.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/smgr.h"

#include "zenith_walredo.h"

/* Forget SMgrRelations after so many requests; they are only a few bytes each. */
#define REQUESTS_PER_SMGR_RESET 256

static BufferTag target;
static BufferDesc *target_buffer = NULL;
static bool target_evicted = false;
static PGAlignedBlock evicted_page;
static PGAlignedBlock decoy_page;
static int	smgr_number = 0;
static int	requests_since_reset = 0;

static void
make_decoy(char *page)
{
	memcpy(page, decoy_page.data, BLCKSZ);
}

static bool
is_target(const RelFileLocator *locator, ForkNumber forknum, BlockNumber blocknum)
{
	return target.blockNum == blocknum &&
		target.relNumber == locator->relNumber &&
		target.forkNum == forknum &&
		target.dbOid == locator->dbOid &&
		target.spcOid == locator->spcOid;
}

/* Is the target in the buffer where redo_smgr_begin put it? */
static bool
target_in_buffer(void)
{
	return (pg_atomic_read_u32(&target_buffer->state) & BM_VALID) != 0 &&
		BufferTagsEqual(&target_buffer->tag, &target);
}

static void
clear_dirty(BufferDesc *desc)
{
	uint32		state = LockBufHdr(desc);

	state &= ~(BM_DIRTY | BM_JUST_DIRTIED | BM_CHECKPOINT_NEEDED);
	UnlockBufHdr(desc, state);
}

static void
smgr_none(void)
{
}

static void
redo_open(SMgrRelation reln)
{
}

static void
redo_close(SMgrRelation reln, ForkNumber forknum)
{
}

static void
redo_create(SMgrRelation reln, ForkNumber forknum, bool isRedo)
{
}

static bool
redo_exists(SMgrRelation reln, ForkNumber forknum)
{
	return true;
}

static void
redo_unlink(RelFileLocatorBackend rlocator, ForkNumber forknum, bool isRedo)
{
}

static void
redo_extend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
			const void *buffer, bool skipFsync)
{
	elog(PANIC, "WAL redo tried to extend a relation");
}

static void
redo_zeroextend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
				int nblocks, bool skipFsync)
{
	elog(PANIC, "WAL redo tried to extend a relation");
}

static bool
redo_prefetch(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, int nblocks)
{
	return true;
}

static void
redo_readv(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
		   void **buffers, BlockNumber nblocks)
{
	for (BlockNumber i = 0; i < nblocks; i++)
	{
		if (is_target(&reln->smgr_rlocator.locator, forknum, blocknum + i))
		{
			if (!target_evicted)
				elog(PANIC, "WAL redo lost the page that it rebuilds");
			memcpy(buffers[i], evicted_page.data, BLCKSZ);
		}
		else
			make_decoy(buffers[i]);
	}
}

static void
redo_writev(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
			const void **buffers, BlockNumber nblocks, bool skipFsync)
{
	for (BlockNumber i = 0; i < nblocks; i++)
	{
		if (is_target(&reln->smgr_rlocator.locator, forknum, blocknum + i))
		{
			memcpy(evicted_page.data, buffers[i], BLCKSZ);
			target_evicted = true;
		}
	}
}

static void
redo_writeback(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
			   BlockNumber nblocks)
{
}

/* Every block exists, so redo never extends. */
static BlockNumber
redo_nblocks(SMgrRelation reln, ForkNumber forknum)
{
	return MaxBlockNumber;
}

static void
redo_truncate(SMgrRelation reln, ForkNumber forknum, BlockNumber old_blocks,
			  BlockNumber nblocks)
{
}

static void
redo_sync(SMgrRelation reln, ForkNumber forknum)
{
}

static const f_smgr redo_smgr = {
	.smgr_init = smgr_none,
	.smgr_shutdown = smgr_none,
	.smgr_open = redo_open,
	.smgr_close = redo_close,
	.smgr_create = redo_create,
	.smgr_exists = redo_exists,
	.smgr_unlink = redo_unlink,
	.smgr_extend = redo_extend,
	.smgr_zeroextend = redo_zeroextend,
	.smgr_prefetch = redo_prefetch,
	.smgr_readv = redo_readv,
	.smgr_writev = redo_writev,
	.smgr_writeback = redo_writeback,
	.smgr_nblocks = redo_nblocks,
	.smgr_truncate = redo_truncate,
	.smgr_immedsync = redo_sync,
	.smgr_registersync = redo_sync,
};

static int
select_redo_smgr(RelFileLocator rlocator, ProcNumber backend)
{
	return smgr_number;
}

static bool
skip_decoys(XLogReaderState *record, RelFileLocator rlocator, ForkNumber forknum,
			BlockNumber blkno)
{
	return !is_target(&rlocator, forknum, blkno);
}

/* Preload time only. */
void
redo_smgr_register(void)
{
	PageInit(decoy_page.data, BLCKSZ, 0);
	PageSetLSN(decoy_page.data, PG_UINT64_MAX);

	smgr_number = smgr_register(&redo_smgr);
	smgr_select_hook = select_redo_smgr;
	redo_skip_block_hook = skip_decoys;
}

/* Puts the base image (or zeros, if NULL) of the target into a buffer. */
void
redo_smgr_begin(const BufferTag *tag, const char *base)
{
	Buffer		buffer;
	Page		page;

	target = *tag;
	target_evicted = false;
	buffer = ReadBufferWithoutRelcache(BufTagGetRelFileLocator(tag), BufTagGetForkNum(tag),
									   tag->blockNum, RBM_ZERO_AND_LOCK, NULL, true);
	page = BufferGetPage(buffer);
	if (base)
		memcpy(page, base, BLCKSZ);
	else
		memset(page, 0, BLCKSZ);
	/* Dirty, so that an eviction hands it to redo_writev. */
	MarkBufferDirty(buffer);
	target_buffer = GetBufferDescriptor(buffer - 1);
	UnlockReleaseBuffer(buffer);
}

/* Turns what the record did to other blocks back into decoys. */
void
redo_smgr_after_record(void)
{
	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *desc = GetBufferDescriptor(i);

		if ((pg_atomic_read_u32(&desc->state) & BM_DIRTY) == 0)
			continue;
		if (BufferTagsEqual(&desc->tag, &target))
			continue;
		make_decoy(BufferGetPage(BufferDescriptorGetBuffer(desc)));
		clear_dirty(desc);
	}
}

/* Sees to it that the target is in target_buffer. */
static void
fetch_target(void)
{
	Buffer		buffer;

	if (target_in_buffer())
		return;
	/* Evicted, and perhaps read back into another buffer. */
	buffer = ReadBufferWithoutRelcache(BufTagGetRelFileLocator(&target),
									   BufTagGetForkNum(&target), target.blockNum,
									   RBM_NORMAL, NULL, true);
	target_buffer = GetBufferDescriptor(buffer - 1);
	ReleaseBuffer(buffer);
}

/* Copies the target as it is now. */
void
redo_smgr_copy_target(char *page)
{
	fetch_target();
	memcpy(page, BufferGetPage(BufferDescriptorGetBuffer(target_buffer)), BLCKSZ);
}

/* Copies the target out and leaves a decoy in its place. */
void
redo_smgr_finish(char *page)
{
	redo_smgr_copy_target(page);
	make_decoy(BufferGetPage(BufferDescriptorGetBuffer(target_buffer)));
	clear_dirty(target_buffer);

	if (++requests_since_reset >= REQUESTS_PER_SMGR_RESET)
	{
		requests_since_reset = 0;
		smgrdestroyall();
	}
}
