/*-------------------------------------------------------------------------
 *
 * replication_state.c
 *	  Replication that outlives the compute, and doesn't outrun the quorum.
 *
 * Slots.  Whenever Postgres writes a persistent slot to its file, the same goes
 * to the WAL as an auxiliary file (aux_files.c), together with the serialized
 * snapshot of logical decoding at the slot's restart LSN, without which decoding
 * couldn't begin there again.  Both are in one file, so they can't be of
 * different times.  The supervisor of the next compute takes it apart:
 *
 *	  length u32 | pg_replslot/<slot>/state | snapshot LSN u64 | the snapshot
 *
 * All numbers are as on this machine; the LSN is 0 if there is no snapshot,
 * as with physical slots and with logical ones whose restart LSN hasn't moved
 * yet.
 *
 * Why this is sound without waiting for the quorum each time: Postgres lets a
 * slot's new catalog horizon take effect only after it has been written.  Any
 * record of vacuum that makes use of it therefore comes later in the WAL than
 * our message.  A next compute that sees the effect of that record sees the
 * message, too.  Creating and dropping a slot do wait, since a client is told
 * of it.
 *
 * What is sent out.  A subscriber must not get a transaction that could still
 * be lost with this compute.  All logical slots wait for the WAL proposer's
 * slot, by synchronized_standby_slots, for which the supervisor sets the name.
 *
 * What comes in.  An apply worker may tell its publisher to forget only what a
 * quorum has.  Commits of apply workers don't wait for it (synchronous_commit
 * is off there), but the position that they report does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "replication/logicalworker.h"
#include "replication/slot.h"
#include "replication/worker_internal.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#include "zenith.h"

/* Below the data directory; only the supervisor reads it there */
#define SLOT_FILE_FORMAT "zenith/slots/%s"

/* While the supervisor drops the subscriptions of a new branch */
#define HOLD_FILE "zenith/hold-subscriptions"
#define HOLD_POLL_MS 50

/* The slot of the supervisor's connection, made anew by each compute */
#define PROPOSER_SLOT "walproposer"

/* The checkpointer has begun the shutdown checkpoint: no more WAL */
static bool checkpoint_begun = false;

/* End of the last message for a slot by this process */
static XLogRecPtr unsettled_lsn = InvalidXLogRecPtr;

static before_shutdown_checkpoint_hook_type previous_checkpoint_hook = NULL;
static replication_slot_file_hook_type previous_slot_hook = NULL;

/*
 * Append a whole file to the buffer at *used, which is enlarged as needed.
 * Returns its size; false if it doesn't exist and may be missing.
 */
static bool
append_file(char **buffer, Size *used, const char *path, bool missing_ok, uint32 *size)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	struct stat status;
	ssize_t		got;

	if (fd < 0 && errno == ENOENT && missing_ok)
		return false;
	if (fd < 0 || fstat(fd, &status) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	*buffer = repalloc_huge(*buffer, *used + status.st_size);
	got = read(fd, *buffer + *used, status.st_size);
	if (got != status.st_size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", path)));
	*used += status.st_size;
	*size = (uint32) status.st_size;
	return true;
}

static bool
is_kept(const ReplicationSlot *slot)
{
	return slot->data.persistency == RS_PERSISTENT &&
		strcmp(NameStr(slot->data.name), PROPOSER_SLOT) != 0 &&
		zenith_aux_file_permitted() && !checkpoint_begun;
}

/* The state has been written to the slot's directory: log it with its snapshot. */
static void
slot_saved(ReplicationSlot *slot, const char *dir)
{
	char		path[MAXPGPATH];
	char	   *buffer = palloc(sizeof(uint32));
	Size		used = sizeof(uint32);
	Size		lsn_at;
	uint32		size;
	XLogRecPtr	snapshot_lsn = InvalidXLogRecPtr;

	snprintf(path, MAXPGPATH, "%s/state", dir);
	append_file(&buffer, &used, path, false, &size);
	memcpy(buffer, &size, sizeof(size));

	lsn_at = used;
	used += sizeof(snapshot_lsn);
	buffer = repalloc_huge(buffer, used);
	if (SlotIsLogical(slot) && slot->data.invalidated == RS_INVAL_NONE)
	{
		snprintf(path, MAXPGPATH, "pg_logical/snapshots/%X-%X.snap",
				 LSN_FORMAT_ARGS(slot->data.restart_lsn));
		if (append_file(&buffer, &used, path, true, &size))
			snapshot_lsn = slot->data.restart_lsn;
	}
	memcpy(buffer + lsn_at, &snapshot_lsn, sizeof(snapshot_lsn));

	snprintf(path, MAXPGPATH, SLOT_FILE_FORMAT, NameStr(slot->data.name));
	unsettled_lsn = zenith_aux_file_put(path, buffer, used);
	pfree(buffer);
}

static void
slot_removed(ReplicationSlot *slot)
{
	char		path[MAXPGPATH];

	snprintf(path, MAXPGPATH, SLOT_FILE_FORMAT, NameStr(slot->data.name));
	unsettled_lsn = zenith_aux_file_delete(path);
}

static void
slot_file_event(ReplicationSlotFileEvent event, ReplicationSlot *slot, const char *dir)
{
	if (previous_slot_hook)
		previous_slot_hook(event, slot, dir);

	switch (event)
	{
		case SLOT_FILE_SAVED:
			if (is_kept(slot))
				slot_saved(slot, dir);
			break;
		case SLOT_FILE_REMOVED:
			if (is_kept(slot))
				slot_removed(slot);
			break;
		case SLOT_FILE_SETTLED:
			/* Also called on the way out of errors, which mustn't be held up */
			if (unsettled_lsn != InvalidXLogRecPtr && InterruptHoldoffCount == 0 &&
				!proc_exit_inprogress)
				zenith_aux_file_wait(unsettled_lsn);
			unsettled_lsn = InvalidXLogRecPtr;
			break;
	}
}

/*
 * In the checkpointer, when no other process writes WAL any more.  Positions
 * that subscribers have confirmed since their slots were last written are
 * saved now: a clean stop forgets nothing.
 */
static void
before_shutdown_checkpoint(void)
{
	if (previous_checkpoint_hook)
		previous_checkpoint_hook();
	CheckPointReplicationSlots(true);
	checkpoint_begun = true;
}

/*
 * What an apply worker may call flushed.  A worker that has just started
 * reports the position of its origin as flushed without asking for more, and
 * the commit that moved the origin there may be recent: so the first call waits.
 */
static XLogRecPtr
quorum_flush_position(void)
{
	static bool caught_up = false;

	if (!caught_up)
	{
		zenith_aux_file_wait(GetXLogInsertEndRecPtr());
		caught_up = true;
	}
	return Min(GetFlushRecPtr(NULL), zenith_quorum_lsn());
}

static bool
am_launcher(void)
{
	return MyBackendType == B_BG_WORKER && MyBgworkerEntry != NULL &&
		strcmp(MyBgworkerEntry->bgw_function_name, "ApplyLauncherMain") == 0;
}

/*
 * Two kinds of processes are held up at the end of their transactions.
 *
 * A worker that copies a table drops its slot at the publisher after it has
 * committed that the copy is complete.  If that commit were lost, the copy
 * could neither go on nor begin anew: so it waits for the quorum.
 *
 * The launcher of apply workers reads the list of subscriptions in a
 * transaction.  On a branch whose subscriptions shall be dropped it gets no
 * further before they are.  Its list is old then, but a worker that it starts
 * looks for its subscription first and ends if there is none.
 */
static void
before_commit(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT)
		return;
	if (MyLogicalRepWorker != NULL && am_tablesync_worker())
		synchronous_commit = SYNCHRONOUS_COMMIT_REMOTE_FLUSH;
	while (am_launcher() && access(HOLD_FILE, F_OK) == 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 HOLD_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
zenith_replication_state_register(void)
{
	previous_slot_hook = replication_slot_file_hook;
	replication_slot_file_hook = slot_file_event;
	previous_checkpoint_hook = before_shutdown_checkpoint_hook;
	before_shutdown_checkpoint_hook = before_shutdown_checkpoint;
	synchronize_all_logical_slots = true;
	logicalrep_flush_hook = quorum_flush_position;
	RegisterXactCallback(before_commit, NULL);
}
