/*-------------------------------------------------------------------------
 *
 * utility_guard.c
 *	  Refuse commands that would copy or place files behind the back of the
 *	  storage manager, and keep what ALTER SYSTEM sets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

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

static void
guard_create_database(CreatedbStmt *statement)
{
	DefElem    *strategy = find_option(statement->options, "strategy");

	if (strategy && pg_strcasecmp(defGetString(strategy), "file_copy") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("CREATE DATABASE with STRATEGY file_copy is not supported"),
				 errdetail("The template's relations are not in local files."),
				 errhint("Leave STRATEGY out, or use STRATEGY wal_log.")));
}

static void
guard_alter_database(AlterDatabaseStmt *statement)
{
	if (find_option(statement->options, "tablespace"))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ALTER DATABASE ... SET TABLESPACE is not supported"),
				 errdetail("Relations are kept by the page server, not in tablespaces.")));
}

static void
guarded_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;

	switch (nodeTag(statement))
	{
		case T_CreatedbStmt:
			guard_create_database((CreatedbStmt *) statement);
			break;
		case T_AlterDatabaseStmt:
			guard_alter_database((AlterDatabaseStmt *) statement);
			break;
		case T_CreateTableSpaceStmt:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("CREATE TABLESPACE is not supported"),
					 errdetail("Relations are kept by the page server, not in tablespaces."),
					 errhint("Use the default tablespace.")));
			break;
		case T_AlterSystemStmt:
			zenith_system_settings_check((AlterSystemStmt *) statement);
			break;
		default:
			break;
	}
	(previous_hook ? previous_hook : standard_ProcessUtility)
		(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);

	if (nodeTag(statement) == T_AlterSystemStmt)
		zenith_system_settings_keep();
}

void
zenith_utility_guard_register(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = guarded_utility;
}
