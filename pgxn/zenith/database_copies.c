/*-------------------------------------------------------------------------
 *
 * database_copies.c
 *	  Databases that are copied or moved as a whole.
 *
 * CREATE DATABASE with STRATEGY file_copy and ALTER DATABASE SET TABLESPACE
 * copy the folder of a database, in which a compute has little, and write one
 * record, at which the page server copies the relations.  So what is read of
 * the copy must be as new as that record, and what the caches know of relations
 * with the same names, from a database that had the number before or from an
 * earlier stay in that tablespace, must be gone before anybody can connect.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "access/xlogreader.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands_xlog.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "utils/syscache.h"

#include "zenith.h"

typedef struct DatabaseCopy
{
	bool		active;
	bool		moving;			/* to another tablespace */
	bool		logged;			/* moving: the record has been written */
	bool		committed;		/* moving: the database is there now */
	Oid			fromDb;
	Oid			fromSpc;
	Oid			toDb;
	Oid			toSpc;
} DatabaseCopy;

static DatabaseCopy copy = {0};
static object_access_hook_type previous_hook = NULL;
static void (*original_redo) (XLogReaderState *record) = NULL;

static void
forget_database(Oid dbOid)
{
	zenith_size_forget_database(dbOid);
	zenith_file_cache_forget_database(dbOid);
}

/* A database that was dropped, or has got the number of one. */
void
zenith_database_dropped(Oid dbOid)
{
	forget_database(dbOid);
	zenith_sequence_forget_database(dbOid, InvalidOid);
}

/* The record is in the WAL, the transaction hasn't committed. */
static void
copy_is_logged(void)
{
	forget_database(copy.toDb);
	zenith_lsn_raise_all(zenith_insert_position());
	zenith_sequence_copied(copy.fromDb, copy.fromSpc, copy.toDb, copy.toSpc);
	if (copy.moving)
		zenith_sequence_forget_database(copy.fromDb, copy.fromSpc);
	copy.logged = true;
}

static void
see_object(ObjectAccessType access, Oid classId, Oid objectId, int subId, void *arg)
{
	if (previous_hook)
		previous_hook(access, classId, objectId, subId, arg);

	if (classId != DatabaseRelationId)
		return;
	if (access == OAT_POST_CREATE)
	{
		zenith_database_dropped(objectId);
		if (copy.active && !copy.moving)
			copy.toDb = objectId;
	}
	else if (access == OAT_POST_ALTER && copy.active && copy.moving && objectId == copy.fromDb)
		copy_is_logged();
}

/* Moving commits before its command ends. */
static void
see_commit(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
		copy.committed = true;
}

static Oid
default_tablespace_of(Oid dbOid)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dbOid));
	Oid			spcOid;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	spcOid = ((Form_pg_database) GETSTRUCT(tuple))->dattablespace;
	ReleaseSysCache(tuple);
	return spcOid;
}

/* The command that copies begins; toSpc is 0 if it is that of the original. */
void
zenith_database_copy_begin(Oid fromDb, Oid toSpc, bool moving)
{
	memset(&copy, 0, sizeof(copy));
	copy.active = true;
	copy.moving = moving;
	copy.fromDb = fromDb;
	copy.toDb = moving ? fromDb : InvalidOid;
	copy.fromSpc = default_tablespace_of(fromDb);
	copy.toSpc = OidIsValid(toSpc) ? toSpc : copy.fromSpc;
}

/*
 * Wait until the last record is durable.  It drops relations that are of no use
 * any more, for which Postgres doesn't wait, or doesn't log it at all, since it
 * removes files.  Lost in a crash, they would be in the way of the next move.
 */
static void
wait_for_drop(XLogRecPtr end)
{
	XLogFlush(end);
	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(end, true);
	RESUME_INTERRUPTS();
}

/* The database isn't moved after all. */
static void
drop_useless_copy(void)
{
	xl_dbase_drop_rec record = {.db_id = copy.toDb,.ntablespaces = 1};

	XLogBeginInsert();
	XLogRegisterData((char *) &record, MinSizeOfDbaseDropRec);
	XLogRegisterData((char *) &copy.toSpc, sizeof(Oid));
	wait_for_drop(XLogInsert(RM_DBASE_ID, XLOG_DBASE_DROP | XLR_SPECIAL_REL_UPDATE));
}

/* The command has ended, or failed. */
void
zenith_database_copy_end(bool done)
{
	if (copy.active && done && !copy.moving && OidIsValid(copy.toDb))
		copy_is_logged();
	if (copy.active && done && copy.moving && copy.logged)
		wait_for_drop(zenith_insert_position());
	if (copy.active && !done && copy.moving && copy.logged && !copy.committed)
		drop_useless_copy();
	copy.active = false;
}

/* A replica learns of all this when it replays the records. */
static void
redo_database(XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;

	original_redo(record);
	switch (info)
	{
		case XLOG_DBASE_CREATE_FILE_COPY:
			zenith_lsn_raise_all(record->EndRecPtr);
			zenith_database_dropped(((xl_dbase_create_file_copy_rec *)
									 XLogRecGetData(record))->db_id);
			break;
		case XLOG_DBASE_CREATE_WAL_LOG:
			zenith_database_dropped(((xl_dbase_create_wal_log_rec *)
									 XLogRecGetData(record))->db_id);
			break;
		case XLOG_DBASE_DROP:
			zenith_database_dropped(((xl_dbase_drop_rec *) XLogRecGetData(record))->db_id);
			break;
	}
}

void
zenith_database_copies_register(void)
{
	if (zenith_mode == ZENITH_REPLICA)
	{
		original_redo = RmgrTable[RM_DBASE_ID].rm_redo;
		RmgrTable[RM_DBASE_ID].rm_redo = redo_database;
	}
	previous_hook = object_access_hook;
	object_access_hook = see_object;
	RegisterXactCallback(see_commit, NULL);
}
