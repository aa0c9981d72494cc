/*-------------------------------------------------------------------------
 *
 * shutdown_state.c
 *	  What a clean stop must still write into the WAL.
 *
 * After a clean stop stock Postgres finds its pages as they were, also where
 * the WAL of their changes says less or more: sequences have values in store
 * that are logged as used, and free space maps are hardly logged at all.  Here
 * the next compute knows only the WAL.  The checkpointer can't add to it,
 * because the shutdown checkpoint must be the last record.
 *
 * So a background worker waits for the end.  When it is told to stop, it lets
 * the sessions end first.  Then it logs each sequence as it is, with nothing in
 * store: the page is changed likewise, under the lock that nextval() takes, so
 * that whoever came later would log again before using a value.  And it writes
 * dirty pages of free space maps, which logs them (page_drop.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xloginsert.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "zenith.h"

/* How long to wait for sessions to end, and for a page server that is away */
#define SESSIONS_TIMEOUT_MS	5000
#define POLL_MS				10
#define OUTAGE_TIMEOUT_S	3
/* How long to bring back sequences that were evicted; the supervisor doesn't wait forever */
#define EVICTED_TIMEOUT_MS	8000

PGDLLEXPORT void zenith_shutdown_worker_main(Datum arg);

/* Log a sequence as it is now, with no values in store. */
static void
settle_sequence(RelFileLocator locator, Buffer buffer)
{
	Page		page = BufferGetPage(buffer);
	Form_pg_sequence_data data;
	xl_seq_rec	record;
	ItemId		item;
	XLogRecPtr	end;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	data = zenith_sequence_data(page);
	if (data != NULL && data->log_cnt != 0)
	{
		item = PageGetItemId(page, FirstOffsetNumber);
		record.locator = locator;

		START_CRIT_SECTION();
		data->log_cnt = 0;
		MarkBufferDirty(buffer);
		XLogBeginInsert();
		XLogRegisterBuffer(0, buffer, REGBUF_WILL_INIT);
		XLogRegisterData((char *) &record, sizeof(record));
		XLogRegisterData((char *) PageGetItem(page, item), ItemIdGetLength(item));
		end = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
		PageSetLSN(page, end);
		END_CRIT_SECTION();
	}
	UnlockReleaseBuffer(buffer);
}

static void
write_page(Buffer buffer)
{
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	FlushOneBuffer(buffer);
	UnlockReleaseBuffer(buffer);
}

/* Sequences and free space maps in the buffer pool. */
static void
settle_buffers(void)
{
	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *descriptor = GetBufferDescriptor(i);
		uint32		state = LockBufHdr(descriptor);
		BufferTag	tag = descriptor->tag;
		RelFileLocator locator;
		ForkNumber	forknum;
		bool		wanted;

		UnlockBufHdr(descriptor, state);
		if ((state & (BM_VALID | BM_TAG_VALID)) != (BM_VALID | BM_TAG_VALID) ||
			!(state & BM_PERMANENT))
			continue;
		locator = BufTagGetRelFileLocator(&tag);
		forknum = BufTagGetForkNum(&tag);
		wanted = forknum == FSM_FORKNUM ? (state & BM_DIRTY) != 0 :
			forknum == MAIN_FORKNUM && tag.blockNum == 0;
		if (!wanted || !ReadRecentBuffer(locator, forknum, tag.blockNum, i + 1))
			continue;
		if (forknum == FSM_FORKNUM)
			write_page(i + 1);
		else
			settle_sequence(locator, i + 1);
	}
}

/* As after any failed work of a process without transactions */
static bool
only_dropped_meanwhile(void)
{
	int			code = geterrcode();

	EmitErrorReport();
	FlushErrorState();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	UnlockBuffers();
	ReleaseAuxProcessResources(false);
	AtEOXact_Buffers(false);
	AtEOXact_SMgr();
	return code == ERRCODE_UNDEFINED_FILE || code == ERRCODE_UNDEFINED_TABLE;
}

/*
 * Sequences whose page is away, with values that zenith_sequence_restore() puts
 * back.  Some may have gone together with their database.
 */
static void
settle_evicted(void)
{
	int			count;
	RelFileLocator *locators = zenith_sequences_in_store(&count);
	volatile bool go_on = true;
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), EVICTED_TIMEOUT_MS);

	for (volatile int i = 0; i < count && go_on && GetCurrentTimestamp() < end; i++)
	{
		PG_TRY();
		{
			(void) smgrnblocks(smgropen(locators[i], INVALID_PROC_NUMBER), MAIN_FORKNUM);
			settle_sequence(locators[i],
							ReadBufferWithoutRelcache(locators[i], MAIN_FORKNUM, 0,
													  RBM_NORMAL, NULL, true));
		}
		PG_CATCH();
		{
			go_on = only_dropped_meanwhile();
		}
		PG_END_TRY();
	}
}

static bool
is_walsender(int pid)
{
	for (int i = 0; i < max_wal_senders; i++)
	{
		if (WalSndCtl->walsnds[i].pid == pid)
			return true;
	}
	return false;
}

/*
 * Walsenders of logical replication belong to a database, too, but end after
 * the checkpoint.  Background workers aren't waited for, since one of them might
 * be waiting as well.
 */
static bool
sessions_remain(void)
{
	for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];

		int			pid = proc->pid;

		if (pid != 0 && OidIsValid(proc->databaseId) && !proc->isBackgroundWorker &&
			!is_walsender(pid))
			return true;
	}
	return false;
}

void
zenith_shutdown_worker_main(Datum arg)
{
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	CreateAuxProcessResourceOwner();
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "zenith shutdown worker",
												ALLOCSET_DEFAULT_SIZES));

	while (!ShutdownRequestPending)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	for (int waited = 0; waited < SESSIONS_TIMEOUT_MS && sessions_remain(); waited += POLL_MS)
	{
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS, PG_WAIT_EXTENSION);
	}

	/* A page server that is away mustn't hold up the end: the rest is then lost as in a crash. */
	zenith_outage_timeout_s = OUTAGE_TIMEOUT_S;
	settle_buffers();
	settle_evicted();
	proc_exit(0);
}

void
zenith_shutdown_worker_register(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 1,
	};

	strlcpy(worker.bgw_name, "zenith shutdown worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "zenith shutdown worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "zenith", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "zenith_shutdown_worker_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
