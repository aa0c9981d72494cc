/*-------------------------------------------------------------------------
 *
 * system_settings.c
 *	  ALTER SYSTEM: its settings belong to the endpoint and outlive the data
 *	  directory, and some are not for it to change.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "zenith.h"

static bool
is_protected(const char *name)
{
	char	   *names = pstrdup(zenith_protected_settings);
	List	   *list;
	ListCell   *cell;

	if (!SplitGUCList(names, ',', &list))
		elog(ERROR, "zenith.protected_settings is not a list");
	foreach(cell, list)
	{
		if (pg_strcasecmp((char *) lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

/*
 * Before ALTER SYSTEM.  Going back to the default is always allowed: it can
 * only take something out of the file.
 */
void
zenith_system_settings_check(AlterSystemStmt *statement)
{
	VariableSetStmt *set = statement->setstmt;

	if (set->kind != VAR_SET_VALUE)
		return;
	if (is_protected(set->name))
		ereport(ERROR,
				(errcode(ERRCODE_CANT_CHANGE_RUNTIME_PARAM),
				 errmsg("parameter \"%s\" cannot be changed by ALTER SYSTEM in this compute", set->name),
				 errdetail("It is Zenith's own: the durability of the data, or the address of the endpoint, depends on it."),
				 errhint("Every other parameter can be changed.")));
	if (pg_strcasecmp(set->name, "wal_level") == 0 &&
		pg_strcasecmp(ExtractSetVariableArgs(set), "minimal") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CANT_CHANGE_RUNTIME_PARAM),
				 errmsg("wal_level cannot be \"minimal\" in this compute"),
				 errdetail("The page server knows of changes from the WAL alone."),
				 errhint("Set wal_level to \"replica\" or \"logical\".")));
	if (pg_strcasecmp(set->name, "max_wal_senders") == 0 &&
		strtol(ExtractSetVariableArgs(set), NULL, 0) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CANT_CHANGE_RUNTIME_PARAM),
				 errmsg("max_wal_senders cannot be 0 in this compute"),
				 errdetail("The WAL is sent to the safekeepers through a WAL sender."),
				 errhint("Leave at least one WAL sender, and one more for each replica and subscriber.")));
}

/*
 * After ALTER SYSTEM: have the supervisor bring the file's new contents to
 * the control plane, and return when they are durable there.
 */
void
zenith_system_settings_keep(void)
{
	char	   *reason;

	if (zenith_supervisor_address[0] == '\0')
	{
		ereport(WARNING,
				(errmsg("ALTER SYSTEM lasts until this compute is started again"),
				 errdetail("Its data directory is made anew at each start, and it has no supervisor to keep its settings.")));
		return;
	}
	if (zenith_supervisor_post("/system-settings", &reason) != 200)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("what ALTER SYSTEM has set could not be kept"),
				 errdetail("%s", reason),
				 errhint("It holds until this compute is started again. Repeat the command when the control plane can be reached.")));
}
