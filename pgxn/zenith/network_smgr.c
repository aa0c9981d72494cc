/*-------------------------------------------------------------------------
 *
 * network_smgr.c
 *	  The storage manager: permanent relations at the page server, all others
 *	  in local files.
 *
 * Which of the two a relation is follows from its persistence, which core
 * leaves in SMgrRelationData wherever it knows it.  Init forks of unlogged
 * relations are logged and therefore at the page server (the base backup
 * brings local copies of them).  Relations of other sessions, that is
 * temporary ones, never get here; see select_smgr().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "access/xlogrecovery.h"
#include "access/xlogutils.h"
#include "catalog/pg_class.h"
#include "catalog/storage_xlog.h"
#include "common/relpath.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/md.h"
#include "utils/errcodes.h"

#include "zenith.h"

static int	network_smgr_number = 0;

/* Is this fork of the relation kept in local files? */
static bool
is_local(SMgrRelation reln, ForkNumber forknum)
{
	if (forknum == INIT_FORKNUM)
		return false;
	switch (reln->smgr_relpersistence)
	{
		case RELPERSISTENCE_PERMANENT:
			return false;
		case RELPERSISTENCE_UNLOGGED:
		case RELPERSISTENCE_TEMP:
			return true;
		default:
			/* The opener didn't know */
			return mdexists(reln, MAIN_FORKNUM);
	}
}

static RelFileLocator
locator_of(SMgrRelation reln)
{
	return reln->smgr_rlocator.locator;
}

/* For messages: the path that the fork would have if it were a file */
static char *
fork_name(RelFileLocator locator, ForkNumber forknum)
{
	return relpathperm(locator, forknum);
}

/*
 * Ask the page server for the size of a fork.  InvalidBlockNumber if it
 * doesn't exist.
 */
static BlockNumber
request_size(RelFileLocator locator, ForkNumber forknum,
			 XLogRecPtr request_lsn, XLogRecPtr not_modified_since)
{
	ZenithRequest request = {
		.tag = 'N',
		.request_lsn = request_lsn,
		.not_modified_since = not_modified_since,
		.locator = locator,
		.forknum = forknum,
	};
	ZenithReply reply;

	zenith_flush_for_read(not_modified_since);
	zenith_count(ZENITH_SIZE_REQUESTS, 1);
	zenith_pageserver_call(&request, &reply, NULL, NULL);
	if (reply.tag == 'n')
		return (BlockNumber) reply.value;
	if (reply.tag == 'x' && reply.sqlstate == ERRCODE_UNDEFINED_TABLE)
		return InvalidBlockNumber;
	zenith_reply_error(&reply, psprintf("the size of relation %s", fork_name(locator, forknum)));
}

static BlockNumber
load_size(RelFileLocator locator, ForkNumber forknum)
{
	BlockNumber nblocks;
	XLogRecPtr	request_lsn;
	XLogRecPtr	not_modified_since;
	uint64		version;

	if (zenith_size_lookup(locator, forknum, &nblocks))
	{
		zenith_count(ZENITH_SIZE_HITS, 1);
		return nblocks;
	}
	version = zenith_size_load_begin(locator, forknum);
	zenith_size_range(locator, forknum, &request_lsn, &not_modified_since);
	nblocks = request_size(locator, forknum, request_lsn, not_modified_since);
	if (forknum == FSM_FORKNUM && zenith_mode == ZENITH_REPLICA && RecoveryInProgress())
		nblocks = zenith_count_in_buffers(locator, forknum, nblocks);
	zenith_size_load_end(locator, forknum, nblocks, version);
	return nblocks;
}

static void
zenith_smgr_shutdown(void)
{
	zenith_pageserver_shutdown();
}

static void
zenith_open(SMgrRelation reln)
{
	mdopen(reln);
}

static void
zenith_close(SMgrRelation reln, ForkNumber forknum)
{
	mdclose(reln, forknum);
}

static void
zenith_create(SMgrRelation reln, ForkNumber forknum, bool isRedo)
{
	RelFileLocator locator = locator_of(reln);
	XLogRecPtr	bound;

	if (is_local(reln, forknum))
	{
		mdcreate(reln, forknum, isRedo);
		return;
	}
	if (isRedo)
	{
		/* Called for every page that redo touches, so usually it is there */
		if (load_size(locator, forknum) == InvalidBlockNumber)
			zenith_size_set(locator, forknum, 0);
		return;
	}
	if (forknum == MAIN_FORKNUM)
		zenith_tablespace_use(locator);
	bound = zenith_insert_position();
	zenith_lsn_set_all_blocks(locator, forknum, bound);
	zenith_lsn_set_size(locator, forknum, bound);
	zenith_size_set(locator, forknum, 0);
}

static bool
zenith_exists(SMgrRelation reln, ForkNumber forknum)
{
	RelFileLocator locator = locator_of(reln);
	BlockNumber nblocks;

	/*
	 * Before its files are removed, a relation's buffers are dropped, and that
	 * asks for its forks while the transaction is ending or when it has
	 * committed already.  Nothing may fail there, and to say that the fork
	 * exists is good enough.  Redo has no transaction, and needs the truth.
	 */
	if ((!IsTransactionState() && !InRecovery) || reln->smgr_relpersistence == 0)
	{
		if (zenith_size_lookup(locator, forknum, &nblocks))
			return nblocks != InvalidBlockNumber;
		return true;
	}
	if (is_local(reln, forknum))
		return mdexists(reln, forknum);
	return load_size(locator, forknum) != InvalidBlockNumber;
}

/* Must not fail: it is called after commit. */
static void
zenith_unlink(RelFileLocatorBackend rlocator, ForkNumber forknum, bool isRedo)
{
	ForkNumber	first = forknum == InvalidForkNumber ? MAIN_FORKNUM : forknum;
	ForkNumber	last = forknum == InvalidForkNumber ? MAX_FORKNUM : forknum;

	for (ForkNumber fork = first; fork <= last; fork++)
	{
		char	   *path = relpath(rlocator, fork);

		/* The persistence isn't known here */
		if (access(path, F_OK) == 0)
			mdunlink(rlocator, fork, isRedo);
		pfree(path);
		zenith_size_forget(rlocator.locator, fork);
		if (zenith_side_active())
			zenith_side_truncate(rlocator.locator, fork, 0);
	}
	zenith_sequence_forget(rlocator.locator);
}

/*
 * Extending may leave out blocks, which are new then, too, and read as zeros.
 */
static void
forget_gap(RelFileLocator locator, ForkNumber forknum, BlockNumber block)
{
	BlockNumber nblocks;

	if (zenith_file_cache_mb == 0)
		return;
	nblocks = load_size(locator, forknum);
	if (nblocks != InvalidBlockNumber && nblocks < block)
		zenith_file_cache_forget(locator, forknum, nblocks, block - nblocks);
}

static void
zenith_extend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
			  const void *buffer, bool skipFsync)
{
	if (is_local(reln, forknum))
	{
		mdextend(reln, forknum, blocknum, buffer, skipFsync);
		return;
	}
	if (forknum == MAIN_FORKNUM)
		zenith_cluster_limit_check(locator_of(reln), 1);
	if (forknum == INIT_FORKNUM && IsTransactionState())
		zenith_init_fork_grown(locator_of(reln));
	forget_gap(locator_of(reln), forknum, blocknum);
	zenith_page_added(locator_of(reln), forknum, blocknum, buffer);
	zenith_size_grow(locator_of(reln), forknum, blocknum + 1);
	zenith_backpressure();
}

static void
zenith_zeroextend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
				  int nblocks, bool skipFsync)
{
	if (is_local(reln, forknum))
	{
		mdzeroextend(reln, forknum, blocknum, nblocks, skipFsync);
		return;
	}
	if ((uint64) blocknum + nblocks >= (uint64) InvalidBlockNumber)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot extend relation %s beyond %u blocks",
						fork_name(locator_of(reln), forknum), InvalidBlockNumber)));
	if (forknum == MAIN_FORKNUM)
		zenith_cluster_limit_check(locator_of(reln), nblocks);
	if (forknum == INIT_FORKNUM && IsTransactionState())
		zenith_init_fork_grown(locator_of(reln));
	zenith_zero_pages_added(locator_of(reln), forknum, blocknum, nblocks);
	zenith_size_grow(locator_of(reln), forknum, blocknum + nblocks);
	zenith_backpressure();
}

static bool
zenith_prefetch(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, int nblocks)
{
	if (is_local(reln, forknum))
		return mdprefetch(reln, forknum, blocknum, nblocks);
	zenith_readahead_submit(locator_of(reln), forknum, blocknum, nblocks);
	zenith_readahead_send_many();
	return true;
}

/* A read in progress, for what is to be sent along with its request */
typedef struct ReadContext
{
	RelFileLocator locator;
	ForkNumber	forknum;
	BlockNumber first;
	int			count;
	bool		followed;
} ReadContext;

static void
follow_read(void *arg)
{
	ReadContext *read = arg;

	if (!read->followed)
		zenith_readahead_follow(read->locator, read->forknum, read->first, read->count);
	read->followed = true;
}

/* Read a run of blocks from the page server and wait for it. */
static void
read_now(ReadContext *read, BlockNumber first, void **buffers, int count)
{
	ZenithRequest request = {
		.tag = 'G',
		.locator = read->locator,
		.forknum = read->forknum,
		.block = first,
		.count = count,
	};
	ZenithReply reply;
	instr_time	start;
	instr_time	end;

	zenith_read_range(read->locator, read->forknum, first, count,
					  &request.request_lsn, &request.not_modified_since);
	zenith_flush_for_read(request.not_modified_since);

	INSTR_TIME_SET_CURRENT(start);
	zenith_pageserver_call(&request, &reply, follow_read, read);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);

	if (reply.tag != 'g')
		zenith_reply_error(&reply, psprintf("block %u of relation %s", first,
											fork_name(read->locator, read->forknum)));
	if (reply.block != first || reply.count != count)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the page server sent other blocks of relation %s than it was asked for",
						fork_name(read->locator, read->forknum))));
	for (int i = 0; i < count; i++)
	{
		memcpy(buffers[i], reply.pages + (Size) i * BLCKSZ, BLCKSZ);
		if (read->forknum == MAIN_FORKNUM)
			zenith_sequence_restore(read->locator, buffers[i]);
		zenith_file_cache_put_read(read->locator, read->forknum, first + i, buffers[i], reply.lsn);
	}

	zenith_count(ZENITH_GETPAGE_REQUESTS, 1);
	zenith_count(ZENITH_GETPAGE_BLOCKS, count);
	zenith_count(ZENITH_GETPAGE_WAIT_US, INSTR_TIME_GET_MICROSEC(end));
}

static void
zenith_readv(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
			 void **buffers, BlockNumber nblocks)
{
	RelFileLocator locator = locator_of(reln);
	ReadContext read = {locator, forknum, blocknum, nblocks, false};
	BlockNumber i = 0;

	if (is_local(reln, forknum))
	{
		mdreadv(reln, forknum, blocknum, buffers, nblocks);
		return;
	}
	while (i < nblocks)
	{
		BlockNumber run = 1;
		BlockNumber max_run;
		XLogRecPtr	lsn;

		if (zenith_side_active() &&
			zenith_side_read(locator, forknum, blocknum + i, buffers[i]))
		{
			i++;
			continue;
		}
		if (zenith_file_cache_read(locator, forknum, blocknum + i, buffers[i]))
		{
			i++;
			continue;
		}
		if (zenith_readahead_take(locator, forknum, blocknum + i, buffers[i], &lsn))
		{
			if (forknum == MAIN_FORKNUM)
				zenith_sequence_restore(locator, buffers[i]);
			zenith_file_cache_put_read(locator, forknum, blocknum + i, buffers[i], lsn);
			i++;
			continue;
		}
		max_run = Min(ZENITH_MAX_REQUEST_BLOCKS, zenith_shard_run(forknum, blocknum + i));
		while (i + run < nblocks && run < max_run &&
			   !zenith_side_active() &&
			   !zenith_readahead_has(locator, forknum, blocknum + i + run) &&
			   !zenith_file_cache_has(locator, forknum, blocknum + i + run))
			run++;
		read_now(&read, blocknum + i, &buffers[i], run);
		i += run;
	}
	if (!read.followed)
	{
		follow_read(&read);
		zenith_pageserver_flush();
	}
}

static void
zenith_writev(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
			  const void **buffers, BlockNumber nblocks, bool skipFsync)
{
	if (is_local(reln, forknum))
	{
		mdwritev(reln, forknum, blocknum, buffers, nblocks, skipFsync);
		return;
	}
	for (BlockNumber i = 0; i < nblocks; i++)
		zenith_page_dropped(locator_of(reln), forknum, blocknum + i, buffers[i]);
	zenith_backpressure();
}

static void
zenith_writeback(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, BlockNumber nblocks)
{
	/* only advice, and whoever wrote the page has left its persistence here */
	if (reln->smgr_relpersistence != 0 && is_local(reln, forknum))
		mdwriteback(reln, forknum, blocknum, nblocks);
}

static BlockNumber
zenith_nblocks(SMgrRelation reln, ForkNumber forknum)
{
	RelFileLocator locator = locator_of(reln);
	BlockNumber nblocks;

	if (is_local(reln, forknum))
		return mdnblocks(reln, forknum);

	nblocks = load_size(locator, forknum);
	if (nblocks == InvalidBlockNumber && !RecoveryInProgress())
	{
		/* To be sure, ask for the present state before failing */
		nblocks = request_size(locator, forknum, PG_UINT64_MAX, zenith_insert_position());
		if (nblocks != InvalidBlockNumber)
			zenith_size_grow(locator, forknum, nblocks);
	}
	if (nblocks == InvalidBlockNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("relation %s does not exist at the page server",
						fork_name(locator, forknum))));
	return nblocks;
}

/*
 * Log a truncation once more if a page of the relation was written, and what
 * it held was logged, between the truncation's own record and now.
 *
 * That record is inserted before the buffers are dropped.  A page beyond the
 * new end that another process writes in between would be there again for all
 * who replay the WAL, with old bits of a map, say.  Nobody writes one any more
 * now: the buffers of all forks are gone.  Runs in a critical section.
 */
static void
truncate_again(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks)
{
	xl_smgr_truncate record;

	/* The main fork comes first, and its record is for all; maps can be cut to nothing alone */
	if (forknum != MAIN_FORKNUM && (forknum != VISIBILITYMAP_FORKNUM || nblocks > 0))
		return;
	if (RecoveryInProgress() || zenith_lsn_of_writes(locator) <= ProcLastRecPtr)
		return;

	record.blkno = nblocks;
	record.rlocator = locator;
	record.flags = forknum == MAIN_FORKNUM ? SMGR_TRUNCATE_ALL : SMGR_TRUNCATE_VM;
	XLogBeginInsert();
	XLogRegisterData((char *) &record, sizeof(record));
	XLogInsert(RM_SMGR_ID, XLOG_SMGR_TRUNCATE | XLR_SPECIAL_REL_UPDATE);
}

/* Called in a critical section. */
static void
zenith_truncate(SMgrRelation reln, ForkNumber forknum,
				BlockNumber old_blocks, BlockNumber nblocks)
{
	RelFileLocator locator = locator_of(reln);
	XLogRecPtr	bound;

	if (is_local(reln, forknum))
	{
		mdtruncate(reln, forknum, old_blocks, nblocks);
		return;
	}
	if (nblocks > old_blocks)
		return;

	truncate_again(locator, forknum, nblocks);

	/* The record of the truncation has been inserted, so this is after it */
	bound = zenith_insert_position();
	zenith_lsn_set_all_blocks(locator, forknum, bound);
	zenith_lsn_set_size(locator, forknum, bound);
	zenith_size_set(locator, forknum, nblocks);
	if (zenith_side_active())
		zenith_side_truncate(locator, forknum, nblocks);
}

static void
zenith_immedsync(SMgrRelation reln, ForkNumber forknum)
{
	if (is_local(reln, forknum))
		mdimmedsync(reln, forknum);
}

static void
zenith_registersync(SMgrRelation reln, ForkNumber forknum)
{
	if (is_local(reln, forknum))
		mdregistersync(reln, forknum);
}

/* For zenith_test_utils: read a run of pages at any LSN, past all caches. */
void
zenith_read_pages_at_lsn(RelFileLocator locator, ForkNumber forknum, BlockNumber first, int count,
						 XLogRecPtr request_lsn, XLogRecPtr not_modified_since, char *pages)
{
	if (network_smgr_number == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no page server")));
	while (count > 0)
	{
		int			run = Min((BlockNumber) count, zenith_shard_run(forknum, first));
		ZenithRequest request = {
			.tag = 'G',
			.request_lsn = request_lsn,
			.not_modified_since = not_modified_since,
			.locator = locator,
			.forknum = forknum,
			.block = first,
			.count = run,
		};
		ZenithReply reply;

		zenith_pageserver_call(&request, &reply, NULL, NULL);
		if (reply.tag != 'g' || reply.count != run)
			zenith_reply_error(&reply, psprintf("block %u of relation %s", first,
												fork_name(locator, forknum)));
		memcpy(pages, reply.pages, (Size) run * BLCKSZ);
		pages += (Size) run * BLCKSZ;
		first += run;
		count -= run;
	}
}

static const f_smgr network_smgr = {
	.smgr_init = NULL,
	.smgr_shutdown = zenith_smgr_shutdown,
	.smgr_open = zenith_open,
	.smgr_close = zenith_close,
	.smgr_create = zenith_create,
	.smgr_exists = zenith_exists,
	.smgr_unlink = zenith_unlink,
	.smgr_extend = zenith_extend,
	.smgr_zeroextend = zenith_zeroextend,
	.smgr_prefetch = zenith_prefetch,
	.smgr_readv = zenith_readv,
	.smgr_writev = zenith_writev,
	.smgr_writeback = zenith_writeback,
	.smgr_nblocks = zenith_nblocks,
	.smgr_truncate = zenith_truncate,
	.smgr_immedsync = zenith_immedsync,
	.smgr_registersync = zenith_registersync,
};

/* Temporary relations belong to one backend and are files. */
static int
select_smgr(RelFileLocator rlocator, ProcNumber backend)
{
	return backend == INVALID_PROC_NUMBER ? network_smgr_number : 0;
}

void
zenith_smgr_register(void)
{
	network_smgr_number = smgr_register(&network_smgr);
	smgr_select_hook = select_smgr;
	database_size_hook = zenith_database_size;
	tablespace_size_hook = zenith_tablespace_size;
}
