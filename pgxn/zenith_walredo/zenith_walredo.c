/*
 * zenith_walredo.c
 *		The WAL redo process: rebuilds single pages from WAL records.
 *
 * It is Postgres in single-user mode with this library preloaded.  When shared
 * memory has been made, the library takes over, drops all rights (see
 * redo_sandbox.c) and serves requests until stdin closes:
 *
 *		request:	u32 bytes that follow | u32 tablespace | u32 database
 *					| u32 relation | u32 fork | u32 block | u32 flags
 *					| u32 number of records | [8192 bytes, if flags & 1]
 *					| per record: u64 end LSN | u32 length | the record
 *		reply:		u32 status | 8192 bytes
 *		greeting:	u32 0x3152575A ("ZWR1") | u32 8192, once at the start
 *
 * All numbers are little endian.  Requests may be pipelined, replies come in
 * the same order.  The low byte of the status is 0 for success; 1 means that a
 * record wanted to change the page although the page did not exist then, so
 * that records are missing.  The rest of it is the number of records whose
 * image for wal_consistency_checking was compared with the page.
 * A record that cannot be applied ends the process; the first request without
 * a reply is the one to blame, because replies that are ready are always
 * written before.
 *
 * Redo itself is Postgres' own code, as in crash recovery, so pages come out
 * byte for byte as a standby would have them.
 */
#include "postgres.h"

#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/pg_shmem.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "zenith_walredo.h"

PG_MODULE_MAGIC;

#define GREETING_MAGIC			0x3152575A
#define REQUEST_HEADER_SIZE		(7 * sizeof(uint32))
#define RECORD_HEADER_SIZE		(sizeof(uint64) + sizeof(uint32))
#define REQUEST_HAS_BASE		1
#define REPLY_OK				0
#define REPLY_PAGE_MISSING		1
#define REPLY_CHECKED_SHIFT		8
#define REPLY_CHECKED_MAX		0xFFFFFF

typedef struct RequestHeader
{
	uint32		tablespace;
	uint32		database;
	uint32		relation;
	uint32		fork;
	uint32		block;
	uint32		flags;
	uint32		nrecords;
} RequestHeader;

static shmem_startup_hook_type previous_startup_hook = NULL;
static emit_log_hook_type previous_log_hook = NULL;

static XLogReaderState *reader;
static char *decode_buffer = NULL;
static size_t decode_buffer_size = 0;
static char *aligned_record = NULL;
static size_t aligned_record_size = 0;
static MemoryContext request_context;
static BufferTag current_target;

void		_PG_init(void);

static void take_over(void);
static void log_hook(ErrorData *edata);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress || IsUnderPostmaster)
		ereport(ERROR,
				(errmsg("zenith_walredo must be loaded via shared_preload_libraries in single-user mode")));

	redo_smgr_register();
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = take_over;
	previous_log_hook = emit_log_hook;
	emit_log_hook = log_hook;
}

/*
 * PANIC would call abort() before the finished replies are written, so report
 * and leave from here.
 */
static void
log_hook(ErrorData *edata)
{
	if (edata->elevel >= PANIC)
	{
		if (edata->message)
			pipe_complain(edata->message);
		if (edata->context)
			pipe_complain(edata->context);
		pipe_flush();
		redo_exit(REDO_EXIT_FAILED);
	}
	if (previous_log_hook)
		previous_log_hook(edata);
}

/* proc_exit(), after FATAL: nothing that it would clean up needs it. */
static void
leave_at_once(int code, Datum arg)
{
	pipe_flush();
	redo_exit(REDO_EXIT_FAILED);
}

/*
 * Postgres makes a small System V segment as a lock on the data directory.  It
 * would outlive a killed process, so mark it for removal now; the exported
 * "ID" is in fact the key.
 */
static void
remove_lock_segment(void)
{
	int			id = shmget((key_t) UsedShmemSegID, 0, 0);

	if (id >= 0)
		(void) shmctl(id, IPC_RMID, NULL);
}

static void
describe_record(void *arg)
{
	RmgrId		rmid;
	const char *name;

	errcontext("rebuilding block %u of relation %u/%u/%u fork %d",
			   current_target.blockNum, current_target.spcOid, current_target.dbOid,
			   current_target.relNumber, (int) BufTagGetForkNum(&current_target));
	if (reader->record == NULL)
		return;
	rmid = XLogRecGetRmid(reader);
	if (!RmgrIdExists(rmid))
		return;
	name = GetRmgr(rmid).rm_identify(XLogRecGetInfo(reader));
	errcontext("WAL record %s/%s that ends at %X/%X",
			   GetRmgr(rmid).rm_name, name ? name : "UNKNOWN",
			   LSN_FORMAT_ARGS(reader->EndRecPtr));
}

static void
protocol_violation(const char *what)
{
	pipe_complain(what);
	pipe_flush();
	redo_exit(REDO_EXIT_PROTOCOL);
}

/* Buffers here outlive the request, so plain malloc: no memory context to reset. */
static char *
grow(char *buffer, size_t *size, size_t needed)
{
	if (*size >= needed)
		return buffer;
	free(buffer);
	*size = Max(needed, 64 * 1024);
	buffer = malloc(*size);
	if (buffer == NULL)
		elog(PANIC, "out of memory for a WAL record of %zu bytes", needed);
	return buffer;
}

/* Returns the number of images that the page was checked against, 0 or 1. */
static int
apply_record(const char *bytes, uint32 length, XLogRecPtr end_lsn)
{
	XLogRecord *record;
	char	   *error = NULL;
	size_t		needed = DecodeXLogRecordRequiredSpace(length);

	if (((uintptr_t) bytes) != MAXALIGN(bytes))
	{
		aligned_record = grow(aligned_record, &aligned_record_size, length);
		memcpy(aligned_record, bytes, length);
		bytes = aligned_record;
	}
	record = (XLogRecord *) bytes;
	decode_buffer = grow(decode_buffer, &decode_buffer_size, needed);

	reader->record = NULL;
	reader->EndRecPtr = end_lsn;
	reader->ReadRecPtr = end_lsn - Min(end_lsn, MAXALIGN(length));
	if (length < SizeOfXLogRecord || record->xl_tot_len != length)
		elog(PANIC, "WAL record has length %u, but %u bytes came",
			 length < SizeOfXLogRecord ? 0 : record->xl_tot_len, length);
	if (!DecodeXLogRecord(reader, (DecodedXLogRecord *) decode_buffer, record,
						  reader->ReadRecPtr, &error))
		elog(PANIC, "WAL record cannot be decoded: %s", error);
	if (!RmgrIdExists(record->xl_rmid))
		elog(PANIC, "WAL record is of unknown resource manager %u", record->xl_rmid);

	reader->record = (DecodedXLogRecord *) decode_buffer;
	GetRmgr(record->xl_rmid).rm_redo(reader);
	return redo_check_consistency(reader, &current_target) ? 1 : 0;
}

static void
serve_request(void)
{
	uint32		total;
	size_t		left;
	RequestHeader header;
	const char *base = NULL;
	RelFileLocator locator;
	char	   *reply;
	uint32		status = REPLY_OK;
	uint32		checked = 0;

	memcpy(&total, pipe_take(sizeof(total)), sizeof(total));
	if (total < REQUEST_HEADER_SIZE)
		protocol_violation("WAL redo: request is too short");
	memcpy(&header, pipe_take(REQUEST_HEADER_SIZE), REQUEST_HEADER_SIZE);
	left = total - REQUEST_HEADER_SIZE;
	if (header.fork > MAX_FORKNUM || header.relation == 0)
		protocol_violation("WAL redo: request names no relation fork");
	if (header.flags & REQUEST_HAS_BASE)
	{
		if (left < BLCKSZ)
			protocol_violation("WAL redo: request is too short for its base image");
		base = pipe_take(BLCKSZ);
		left -= BLCKSZ;
	}

	locator.spcOid = header.tablespace;
	locator.dbOid = header.database;
	locator.relNumber = header.relation;
	InitBufferTag(&current_target, &locator, (ForkNumber) header.fork, header.block);
	redo_smgr_begin(&current_target, base);

	for (uint32 i = 0; i < header.nrecords; i++)
	{
		uint64		end_lsn;
		uint32		length;
		const char *record_header;

		if (left < RECORD_HEADER_SIZE)
			protocol_violation("WAL redo: request is too short for its records");
		record_header = pipe_take(RECORD_HEADER_SIZE);
		memcpy(&end_lsn, record_header, sizeof(end_lsn));
		memcpy(&length, record_header + sizeof(end_lsn), sizeof(length));
		left -= RECORD_HEADER_SIZE;
		if (left < length)
			protocol_violation("WAL redo: a record is longer than its request");
		left -= length;
		checked += apply_record(pipe_take(length), length, end_lsn);
		redo_smgr_after_record();
	}
	if (left != 0)
		protocol_violation("WAL redo: request is longer than its records");

	/* Only the target can be missing, as decoys always exist. */
	if (XLogHaveInvalidPages())
	{
		status = REPLY_PAGE_MISSING;
		XLogDropRelation(locator, (ForkNumber) header.fork);
	}
	status |= Min(checked, REPLY_CHECKED_MAX) << REPLY_CHECKED_SHIFT;
	reply = pipe_reserve_reply(sizeof(status) + BLCKSZ);
	memcpy(reply, &status, sizeof(status));
	redo_smgr_finish(reply + sizeof(status));
	pipe_commit_reply(sizeof(status) + BLCKSZ);
	reader->record = NULL;
	MemoryContextReset(request_context);
}

/* What the startup process has when it begins to replay, and not more. */
static void
prepare_redo(void)
{
	InitAuxiliaryProcess();
	BaseInit();
	before_shmem_exit(leave_at_once, 0);

	InRecovery = true;
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "WAL redo");
	request_context = AllocSetContextCreate(TopMemoryContext, "WAL redo request",
											ALLOCSET_DEFAULT_SIZES);
	reader = XLogReaderAllocate(wal_segment_size, NULL, XL_ROUTINE(), NULL);
	if (reader == NULL)
		elog(FATAL, "out of memory for the WAL reader");
	RmgrStartup();
}

static void
take_over(void)
{
	sigjmp_buf	local_sigjmp_buf;
	ErrorContextCallback callback = {.callback = describe_record};
	uint32		greeting[2] = {GREETING_MAGIC, BLCKSZ};

	if (previous_startup_hook)
		previous_startup_hook();

	remove_lock_segment();
	prepare_redo();
	pipe_init();
	sandbox_enter();

	if (sigsetjmp(local_sigjmp_buf, 0) != 0)
	{
		/* ERROR in a redo routine: locks and pins are unknown now, so leave. */
		error_context_stack = NULL;
		EmitErrorReport();
		pipe_flush();
		redo_exit(REDO_EXIT_FAILED);
	}
	PG_exception_stack = &local_sigjmp_buf;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	memcpy(pipe_reserve_reply(sizeof(greeting)), greeting, sizeof(greeting));
	pipe_commit_reply(sizeof(greeting));
	MemoryContextSwitchTo(request_context);
	while (!pipe_at_end())
		serve_request();
	redo_exit(REDO_EXIT_OK);
}
