/*-------------------------------------------------------------------------
 *
 * utility_guard.c
 *	  What must be done around commands that look at, place or copy files behind
 *	  the back of the storage manager, and what keeps the effect of ALTER SYSTEM.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/catalog.h"
#include "catalog/pg_database.h"
#include "catalog/pg_tablespace.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
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

/* CREATE DATABASE: does it copy, instead of logging every page? */
static bool
begin_create_database(CreatedbStmt *statement)
{
	DefElem    *strategy = find_option(statement->options, "strategy");
	DefElem    *template = find_option(statement->options, "template");
	DefElem    *tablespace = find_option(statement->options, "tablespace");
	const char *original = template && template->arg ? defGetString(template) : "template1";

	if (strategy == NULL || strategy->arg == NULL ||
		pg_strcasecmp(defGetString(strategy), "file_copy") != 0)
		return false;
	zenith_database_copy_begin(get_database_oid(original, true),
							   tablespace && tablespace->arg ?
							   get_tablespace_oid(defGetString(tablespace), true) : InvalidOid,
							   false);
	return true;
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
	if (!OidIsValid(spcOid))
		return false;
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
	int			guc_level = 0;
	Oid			dropped = InvalidOid;

	switch (nodeTag(statement))
	{
		case T_CreatedbStmt:
			copying = begin_create_database((CreatedbStmt *) statement);
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
	PG_TRY();
	{
		(previous_hook ? previous_hook : standard_ProcessUtility)
			(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	}
	PG_CATCH();
	{
		if (copying)
			zenith_database_copy_end(false);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (nodeTag(statement) == T_AlterSystemStmt)
		zenith_system_settings_keep();
	if (copying)
		zenith_database_copy_end(true);
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
