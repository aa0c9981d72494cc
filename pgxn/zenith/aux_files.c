/*-------------------------------------------------------------------------
 *
 * aux_files.c
 *	  Files outside the data pages that must outlive the compute.
 *
 * The data directory is made anew at each start.  What Postgres keeps in files
 * of its own there, replication slots for one, is lost unless it is in the
 * WAL.  So such a file is put into the WAL as a logical message, with a prefix
 * of ours; the page server keeps the newest contents of each path, and the
 * next base backup has them.
 *
 * The message names no database.  Logical decoding passes over messages that
 * aren't of the slot's database, so output plugins never see ours.  They are
 * marked as unimportant, too: they don't make an idle server write checkpoints
 * and running-transactions records, of which in turn slots would be saved.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "replication/syncrep.h"
#include "replication/walsender_private.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/wait_event.h"

#include "zenith.h"

#define AUX_FILE_PREFIX "zenith-file"

/* Records may have about 1020 MB; nothing that belongs here is near that */
#define MAX_FILE_BYTES ((Size) 512 * 1024 * 1024)

#define FIRST_NAP_MS 1
#define LONGEST_NAP_MS 20

static XLogRecPtr
log_file(char flag, const char *path, const char *data, Size size)
{
	Size		path_length = strlen(path);
	uint8		header[3];
	xl_logical_message message;
	XLogRecPtr	end;

	if (path_length > MAXPGPATH || size > MAX_FILE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("file \"%s\" with %zu bytes is too large to be kept for the next start of the compute",
						path, size)));

	message.dbId = InvalidOid;
	message.transactional = false;
	message.prefix_size = sizeof(AUX_FILE_PREFIX);
	message.message_size = sizeof(header) + path_length + size;
	header[0] = (uint8) flag;
	header[1] = path_length & 0xff;
	header[2] = path_length >> 8;

	XLogBeginInsert();
	XLogRegisterData((char *) &message, SizeOfLogicalMessage);
	XLogRegisterData(AUX_FILE_PREFIX, sizeof(AUX_FILE_PREFIX));
	XLogRegisterData((char *) header, sizeof(header));
	XLogRegisterData(unconstify(char *, path), path_length);
	if (size > 0)
		XLogRegisterData(unconstify(char *, data), size);
	XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
	end = XLogInsert(RM_LOGICALMSG_ID, XLOG_LOGICAL_MESSAGE);
	/* The WAL writer flushes it soon, also on an idle server */
	XLogSetAsyncXactLSN(end);
	return end;
}

/*
 * May WAL be written now?  Not in recovery, and not once the shutdown
 * checkpoint has begun: callers see to it that they come before.
 */
bool
zenith_aux_file_permitted(void)
{
	return IsUnderPostmaster && !RecoveryInProgress() && XLogInsertAllowed();
}

/*
 * Keep these contents for the path, which is relative to the data directory.
 * Returns the end of the record; it isn't flushed, and nobody waits for the
 * quorum: see zenith_aux_file_wait().
 */
XLogRecPtr
zenith_aux_file_put(const char *path, const char *data, Size size)
{
	return log_file('P', path, data, size);
}

/* Keep nothing for the path any more. */
XLogRecPtr
zenith_aux_file_delete(const char *path)
{
	return log_file('D', path, NULL, 0);
}

/*
 * What a quorum of safekeepers has, as far as this server was told since its
 * start.  0 before it was told anything.
 */
XLogRecPtr
zenith_quorum_lsn(void)
{
	XLogRecPtr	lsn;

	LWLockAcquire(SyncRepLock, LW_SHARED);
	lsn = WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH];
	LWLockRelease(SyncRepLock);
	return lsn;
}

/*
 * Wait until a quorum has everything up to this position.  Can be cancelled,
 * unless the caller holds off interrupts.
 */
void
zenith_aux_file_wait(XLogRecPtr lsn)
{
	int			nap_ms = FIRST_NAP_MS;
	bool		latch_was_set = false;

	XLogFlush(lsn);
	while (zenith_quorum_lsn() < lsn)
	{
		int			woken = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
									  nap_ms, zenith_wait_quorum);

		if (woken & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latch_was_set = true;
		}
		CHECK_FOR_INTERRUPTS();
		nap_ms = Min(nap_ms * 2, LONGEST_NAP_MS);
	}
	if (latch_was_set)
		SetLatch(MyLatch);
}
