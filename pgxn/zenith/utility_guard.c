/*-------------------------------------------------------------------------
 *
 * utility_guard.c
 *	  What must be done around commands that look at, place or copy files behind
 *	  the back of the storage manager, and what keeps the effect of ALTER SYSTEM.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/pg_database.h"
#include "catalog/pg_tablespace.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/bufmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"

#include "zenith.h"

static ProcessUtility_hook_type previous_hook = NULL;

static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);

		if (strcmp(option->defname, name) == 0)
			return option;
	}
	return NULL;
}

/*
 * The page server holds what a record copies in memory, and could never get
 * past a record that copies more than it has.
 */
static bool
is_too_large(Oid dbOid)
{
	return zenith_database_size(dbOid) > (int64) zenith_max_database_copy_mb * 1024 * 1024;
}

/* The same command with the other strategy, which has the same result. */
static PlannedStmt *
log_instead_of_copying(PlannedStmt *pstmt)
{
	PlannedStmt *changed = copyObject(pstmt);
	CreatedbStmt *statement = (CreatedbStmt *) changed->utilityStmt;

	find_option(statement->options, "strategy")->arg = (Node *) makeString("wal_log");
	ereport(NOTICE,
			(errmsg("database \"%s\" is created with STRATEGY wal_log", statement->dbname),
			 errdetail("Its template is larger than zenith.max_database_copy_size.")));
	return changed;
}

/* CREATE DATABASE: does it copy, instead of logging every page? */
static bool
begin_create_database(PlannedStmt **pstmt)
{
	CreatedbStmt *statement = (CreatedbStmt *) (*pstmt)->utilityStmt;
	DefElem    *strategy = find_option(statement->options, "strategy");
	DefElem    *template = find_option(statement->options, "template");
	DefElem    *tablespace = find_option(statement->options, "tablespace");
	const char *name = template && template->arg ? defGetString(template) : "template1";
	Oid			original;

	original = get_database_oid(name, true);
	if (!OidIsValid(original) || !have_createdb_privilege())
		return false;
	if (zenith_max_cluster_size_mb > 0)
		zenith_cluster_limit_check_copy(zenith_database_size(original));
	if (strategy == NULL || strategy->arg == NULL ||
		pg_strcasecmp(defGetString(strategy), "file_copy") != 0)
		return false;
	if (is_too_large(original))
	{
		*pstmt = log_instead_of_copying(*pstmt);
		return false;
	}
	zenith_database_copy_begin(original,
							   tablespace && tablespace->arg ?
							   get_tablespace_oid(defGetString(tablespace), true) : InvalidOid,
							   false);
	return true;
}

/*
 * Postgres has logged the visibility maps of the new database without their
 * bits; see zenith_page_dropped(), which logs them once more when they are
 * written.  Let that be now, before anybody changes them.
 */
static void
log_copied_maps(const CreatedbStmt *statement)
{
	Oid			dbOid;

	CommandCounterIncrement();
	dbOid = get_database_oid(statement->dbname, true);
	if (OidIsValid(dbOid))
		FlushDatabaseBuffers(dbOid);
}

/* ALTER DATABASE ... SET TABLESPACE */
static bool
begin_move_database(AlterDatabaseStmt *statement)
{
	DefElem    *tablespace = find_option(statement->options, "tablespace");
	Oid			dbOid = get_database_oid(statement->dbname, true);
	Oid			spcOid;

	if (tablespace == NULL || !OidIsValid(dbOid) ||
		!object_ownercheck(DatabaseRelationId, dbOid, GetUserId()))
		return false;
	spcOid = get_tablespace_oid(defGetString(tablespace), true);
	if (!OidIsValid(spcOid) || spcOid == GLOBALTABLESPACE_OID)
		return false;
	if (is_too_large(dbOid))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("database \"%s\" is too large to be moved as a whole", statement->dbname),
				 errdetail("It is larger than zenith.max_database_copy_size."),
				 errhint("Move its relations with ALTER TABLE ALL IN TABLESPACE and ALTER INDEX ALL IN TABLESPACE.")));
	zenith_tablespace_refresh(spcOid);
	zenith_database_copy_begin(dbOid, spcOid, true);
	return true;
}

static void
before_drop_tablespace(DropTableSpaceStmt *statement)
{
	Oid			spcOid = get_tablespace_oid(statement->tablespacename, true);

	if (OidIsValid(spcOid) && !IsPinnedObject(TableSpaceRelationId, spcOid) &&
		object_ownercheck(TableSpaceRelationId, spcOid, GetUserId()))
		zenith_tablespace_refresh(spcOid);
}

/* The same command without its location; tells how to undo the setting for it. */
static PlannedStmt *
make_in_place(PlannedStmt *pstmt, int *guc_level)
{
	PlannedStmt *changed = copyObject(pstmt);

	((CreateTableSpaceStmt *) changed->utilityStmt)->location = "";
	*guc_level = NewGUCNestLevel();
	(void) set_config_option("allow_in_place_tablespaces", "on",
							 PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return changed;
}

static void
guarded_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	bool		copying = false;
	bool		makes_room;
	int			guc_level = 0;
	Oid			dropped = InvalidOid;

	switch (nodeTag(statement))
	{
		case T_CreatedbStmt:
			copying = begin_create_database(&pstmt);
			break;
		case T_AlterDatabaseStmt:
			copying = begin_move_database((AlterDatabaseStmt *) statement);
			break;
		case T_DropdbStmt:
			dropped = get_database_oid(((DropdbStmt *) statement)->dbname, true);
			break;
		case T_CreateTableSpaceStmt:
			if (zenith_tablespace_is_in_place((CreateTableSpaceStmt *) statement))
				pstmt = make_in_place(pstmt, &guc_level);
			break;
		case T_DropTableSpaceStmt:
			before_drop_tablespace((DropTableSpaceStmt *) statement);
			break;
		case T_AlterSystemStmt:
			zenith_system_settings_check((AlterSystemStmt *) statement);
			break;
		default:
			break;
	}
	makes_room = zenith_cluster_limit_enter(statement);
	PG_TRY();
	{
		(previous_hook ? previous_hook : standard_ProcessUtility)
			(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	}
	PG_CATCH();
	{
		if (makes_room)
			zenith_cluster_limit_leave();
		if (copying)
			zenith_database_copy_end(false);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (makes_room)
		zenith_cluster_limit_leave();
	if (nodeTag(statement) == T_AlterSystemStmt)
		zenith_system_settings_keep();
	if (copying)
		zenith_database_copy_end(true);
	else if (nodeTag(statement) == T_CreatedbStmt)
		log_copied_maps((CreatedbStmt *) statement);
	if (OidIsValid(dropped))
		zenith_database_dropped(dropped);
	if (guc_level > 0)
	{
		AtEOXact_GUC(true, guc_level);
		ereport(NOTICE,
				(errmsg("location \"%s\" is not used",
						((CreateTableSpaceStmt *) statement)->location),
				 errdetail("Relations of every tablespace are kept by the page server.")));
	}
}

void
zenith_utility_guard_register(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = guarded_utility;
}
