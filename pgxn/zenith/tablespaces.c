/*-------------------------------------------------------------------------
 *
 * tablespaces.c
 *	  Tablespaces, of which a compute has the folders only.
 *
 * Relations of any tablespace are at the page server, with the tablespace in
 * their name.  Postgres asks the file system, though: whether a tablespace may
 * be dropped, or a database be moved there, it knows from the folder
 * pg_tblspc/<tablespace>/<version>/<database> being empty.  So such a folder
 * gets a marker file with the first permanent relation that is created in it,
 * and after a restart the base backup brings folders and markers.  A marker
 * stays when the last relation goes, until somebody wants to know: then the
 * page server is asked, and markers of databases without relations are removed.
 *
 * Whoever creates a relation holds a lock on the tablespace until its
 * transaction ends, so that who asks the page server under a lock that
 * conflicts with it hears of every relation.
 *
 * A compute has no disk that lasts, so a tablespace is always "in place", a
 * folder in the data directory.  The location that CREATE TABLESPACE names is
 * checked and then left alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_tablespace.h"
#include "commands/tablespace.h"
#include "common/file_perm.h"
#include "common/relpath.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "utils/acl.h"

#include "zenith.h"

/* The base backup makes it, too: pageserver/basebackup/database-entries.ts */
#define MARKER	"zenith_relations"

static void
tablespace_path(char *path, Oid spcOid)
{
	if (spcOid == DEFAULTTABLESPACE_OID)
		strlcpy(path, "base", MAXPGPATH);
	else if (spcOid == GLOBALTABLESPACE_OID)
		strlcpy(path, "global", MAXPGPATH);
	else
		snprintf(path, MAXPGPATH, "pg_tblspc/%u/%s", spcOid, TABLESPACE_VERSION_DIRECTORY);
}

static LockAcquireResult
lock_tablespace(Oid spcOid, LOCKMODE mode, bool dontWait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, TableSpaceRelationId, spcOid, 0);
	return LockAcquire(&tag, mode, false, dontWait);
}

/* Leave a file in the folder of a database, unless something is there anyhow. */
static void
make_marker(const char *folder)
{
	char		path[MAXPGPATH];
	int			fd;

	snprintf(path, MAXPGPATH, "%s/PG_VERSION", folder);
	if (access(path, F_OK) == 0)
		return;
	snprintf(path, MAXPGPATH, "%s/%s", folder, MARKER);
	if (access(path, F_OK) == 0)
		return;
	fd = OpenTransientFile(path, O_CREAT | O_WRONLY | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	CloseTransientFile(fd);
}

/*
 * A permanent relation is about to be created.  ERROR, as for files, if the
 * tablespace is gone.
 */
void
zenith_tablespace_use(RelFileLocator locator)
{
	char	   *folder;

	if (locator.spcOid == GLOBALTABLESPACE_OID ||
		(locator.spcOid == MyDatabaseTableSpace && locator.dbOid == MyDatabaseId))
		return;
	if (IsTransactionState())
		lock_tablespace(locator.spcOid, AccessShareLock, false);
	TablespaceCreateDbspace(locator.spcOid, locator.dbOid, false);
	folder = GetDatabasePath(locator.dbOid, locator.spcOid);
	make_marker(folder);
	pfree(folder);
}

/* Sizes of the regular files in a folder: unlogged relations, most of all. */
static int64
folder_size(const char *path)
{
	DIR		   *folder = AllocateDir(path);
	struct dirent *entry;
	int64		size = 0;

	if (folder == NULL)
		return 0;
	while ((entry = ReadDirExtended(folder, path, LOG)) != NULL)
	{
		char		file[MAXPGPATH * 2];
		struct stat st;

		CHECK_FOR_INTERRUPTS();
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		if (stat(file, &st) == 0 && S_ISREG(st.st_mode))
			size += st.st_size;
	}
	FreeDir(folder);
	return size;
}

/* Call a function for the folder of every database in a tablespace. */
static void
for_each_database(Oid spcOid, void (*callback) (Oid dbOid, const char *folder, void *arg),
				  void *arg)
{
	char		path[MAXPGPATH];
	DIR		   *folder;
	struct dirent *entry;

	tablespace_path(path, spcOid);
	folder = AllocateDir(path);
	if (folder == NULL)
		return;
	while ((entry = ReadDirExtended(folder, path, LOG)) != NULL)
	{
		char		database[MAXPGPATH * 2];
		Oid			dbOid = (Oid) strtoul(entry->d_name, NULL, 10);

		if (dbOid == InvalidOid)
			continue;
		snprintf(database, sizeof(database), "%s/%s", path, entry->d_name);
		callback(dbOid, database, arg);
	}
	FreeDir(folder);
}

/* Ask what the page server has, as of the end of the WAL. */
static void
ask_pageserver(char tag, Oid spcOid, Oid dbOid, ZenithReply *reply)
{
	ZenithRequest request = {
		.tag = tag,
		.request_lsn = PG_UINT64_MAX,
		.not_modified_since = zenith_start_lsn,
		.locator = {.spcOid = spcOid,.dbOid = dbOid},
	};

	if (RecoveryInProgress())
	{
		request.request_lsn = zenith_mode == ZENITH_STATIC ? zenith_start_lsn :
			zenith_shown_lsn();
		request.not_modified_since = request.request_lsn;
	}
	else
	{
		request.not_modified_since = zenith_insert_position();
		zenith_flush_for_read(request.not_modified_since);
	}
	zenith_pageserver_call(&request, reply, NULL, NULL);
	if (reply->tag != (tag == 'T' ? 't' : 'd'))
		zenith_reply_error(reply, tag == 'T' ?
						   psprintf("the size of tablespace %u", spcOid) :
						   psprintf("the size of database %u", dbOid));
}

static void
refresh_marker(Oid dbOid, const char *folder, void *arg)
{
	const ZenithReply *reply = arg;
	char		path[MAXPGPATH * 2];

	for (uint32 i = 0; i < reply->database_count; i++)
	{
		if (zenith_reply_database(reply, i) == dbOid)
			return;
	}
	snprintf(path, sizeof(path), "%s/%s", folder, MARKER);
	if (unlink(path) < 0 && errno != ENOENT)
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/*
 * Remove the markers of databases that have no relations in the tablespace any
 * more.  To be called before commands that look for files there.  If somebody
 * is just creating a relation, nothing is done: then it isn't empty.
 */
void
zenith_tablespace_refresh(Oid spcOid)
{
	ZenithReply reply;

	if (RecoveryInProgress() ||
		lock_tablespace(spcOid, AccessExclusiveLock, true) == LOCKACQUIRE_NOT_AVAIL)
		return;
	ask_pageserver('T', spcOid, InvalidOid, &reply);
	for_each_database(spcOid, refresh_marker, &reply);
}

/*
 * Is this a CREATE TABLESPACE that Postgres would accept, with a location
 * outside of the data directory?  All others are left to its own checks.
 */
bool
zenith_tablespace_is_in_place(CreateTableSpaceStmt *statement)
{
	char	   *location = pstrdup(statement->location);
	struct stat st;
	bool		accepted;

	canonicalize_path(location);
	accepted = superuser() && is_absolute_path(location) && strchr(location, '\'') == NULL &&
		strlen(location) < MAXPGPATH / 2 && stat(location, &st) == 0 && S_ISDIR(st.st_mode);
	pfree(location);
	return accepted;
}

static void
add_folder_size(Oid dbOid, const char *folder, void *arg)
{
	*(int64 *) arg += folder_size(folder);
}

/* What pg_tablespace_size() reports; -1 if there is no such tablespace. */
int64
zenith_tablespace_size(Oid spcOid)
{
	char		path[MAXPGPATH];
	ZenithReply reply;
	int64		size;

	tablespace_path(path, spcOid);
	if (access(path, F_OK) != 0)
		return -1;
	ask_pageserver('T', spcOid, InvalidOid, &reply);
	size = (int64) reply.value;
	if (spcOid == GLOBALTABLESPACE_OID)
		return size + folder_size(path);
	for_each_database(spcOid, add_folder_size, &size);
	return size;
}

typedef struct DatabaseSize
{
	Oid			dbOid;
	int64		size;
} DatabaseSize;

static void
add_size_of_database(Oid dbOid, const char *folder, void *arg)
{
	DatabaseSize *sum = arg;

	if (dbOid == sum->dbOid)
		sum->size += folder_size(folder);
}

/* What pg_database_size() reports. */
int64
zenith_database_size(Oid dbOid)
{
	DatabaseSize sum = {dbOid, 0};
	DIR		   *folder;
	struct dirent *entry;
	ZenithReply reply;

	ask_pageserver('D', InvalidOid, dbOid, &reply);
	sum.size = (int64) reply.value;

	for_each_database(DEFAULTTABLESPACE_OID, add_size_of_database, &sum);
	folder = AllocateDir("pg_tblspc");
	while ((entry = ReadDirExtended(folder, "pg_tblspc", LOG)) != NULL)
	{
		Oid			spcOid = (Oid) strtoul(entry->d_name, NULL, 10);

		if (spcOid != InvalidOid)
			for_each_database(spcOid, add_size_of_database, &sum);
	}
	FreeDir(folder);
	return sum.size;
}
