/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  Configuration parameters, and the ones of Postgres that must fit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "replication/walsender.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"

#include "zenith.h"

int			zenith_mode = ZENITH_PRIMARY;
char	   *zenith_tenant_id = NULL;
char	   *zenith_timeline_id = NULL;
static char *zenith_start_lsn_string = NULL;
char	   *zenith_supervisor_address = NULL;
char	   *zenith_protected_settings = NULL;
XLogRecPtr	zenith_start_lsn = InvalidXLogRecPtr;
char	   *zenith_progress_file = NULL;
int			zenith_max_write_lag_mb = 500;
int			zenith_max_flush_lag_mb = 10 * 1024;
int			zenith_max_apply_lag_mb = 0;
int			zenith_max_backpressure_delay_ms = 30000;
int			zenith_max_cluster_size_mb = 0;
int			zenith_readahead_pages = 256;
int			zenith_file_cache_mb = 0;
int			zenith_max_database_copy_mb = 1024;
int			zenith_size_cache_entries = 64 * 1024;
int			zenith_lsn_cache_entries = 1024 * 1024;
int			zenith_outage_timeout_s = 300;
int			zenith_transient_logging = ZENITH_TRANSIENT_FRAGMENTS;

static const struct config_enum_entry transient_logging_options[] = {
	{"fragments", ZENITH_TRANSIENT_FRAGMENTS, false},
	{"images", ZENITH_TRANSIENT_IMAGES, false},
	{"off", ZENITH_TRANSIENT_OFF, false},
	{NULL, 0, false}
};

static const struct config_enum_entry mode_options[] = {
	{"primary", ZENITH_PRIMARY, false},
	{"static", ZENITH_STATIC, false},
	{"replica", ZENITH_REPLICA, false},
	{NULL, 0, false}
};

/* Ids are 16 bytes in hexadecimal; empty while nothing is configured. */
static bool
check_id(char **newval, void **extra, GucSource source)
{
	size_t		length = *newval ? strlen(*newval) : 0;

	if (length == 0)
		return true;
	if (length != 32 || strspn(*newval, "0123456789abcdefABCDEF") != 32)
	{
		GUC_check_errdetail("Expected 32 hexadecimal digits, got \"%s\".", *newval);
		return false;
	}
	return true;
}

static bool
check_start_lsn(char **newval, void **extra, GucSource source)
{
	bool		failed = false;
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	XLogRecPtr *result;

	if (*newval && **newval)
	{
		lsn = pg_lsn_in_internal(*newval, &failed);
		if (failed)
		{
			GUC_check_errdetail("Expected an LSN like \"0/1609610\", got \"%s\".", *newval);
			return false;
		}
	}
	result = guc_malloc(LOG, sizeof(XLogRecPtr));
	if (!result)
		return false;
	*result = lsn;
	*extra = result;
	return true;
}

static void
assign_start_lsn(const char *newval, void *extra)
{
	zenith_start_lsn = *(XLogRecPtr *) extra;
}

void
zenith_define_settings(void)
{
	zenith_define_shard_settings();
	DefineCustomStringVariable("zenith.tenant_id",
							   "Tenant to which this compute belongs.",
							   NULL,
							   &zenith_tenant_id,
							   "",
							   PGC_POSTMASTER, 0,
							   check_id, NULL, NULL);
	DefineCustomStringVariable("zenith.timeline_id",
							   "Timeline (branch) that this compute serves.",
							   NULL,
							   &zenith_timeline_id,
							   "",
							   PGC_POSTMASTER, 0,
							   check_id, NULL, NULL);
	DefineCustomEnumVariable("zenith.mode",
							 "What this compute does with its branch.",
							 "A primary writes to it, a static compute shows it as of zenith.start_lsn, a replica follows it.",
							 &zenith_mode,
							 ZENITH_PRIMARY, mode_options,
							 PGC_POSTMASTER, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable("zenith.start_lsn",
							   "End of the timeline's WAL when this compute started.",
							   "Pages that this compute hasn't changed are at least as new as this LSN.",
							   &zenith_start_lsn_string,
							   "",
							   PGC_POSTMASTER, 0,
							   check_start_lsn, assign_start_lsn, NULL);
	DefineCustomStringVariable("zenith.supervisor_address",
							   "Where the supervisor of this compute listens, as host:port.",
							   "If it is empty, what ALTER SYSTEM sets is lost with the data directory.",
							   &zenith_supervisor_address,
							   "",
							   PGC_POSTMASTER, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("zenith.progress_file",
							   "File in which the supervisor tells how far the page server is.",
							   "If it is empty, only zenith.max_replication_apply_lag has an effect.",
							   &zenith_progress_file,
							   "",
							   PGC_POSTMASTER, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("zenith.protected_settings",
							   "Settings that ALTER SYSTEM may not change, separated by commas.",
							   NULL,
							   &zenith_protected_settings,
							   "",
							   PGC_POSTMASTER, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.max_replication_write_lag",
							"WAL that the page server may still have to receive before writers are slowed down.",
							"0 means without limit.",
							&zenith_max_write_lag_mb,
							500, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.max_replication_flush_lag",
							"WAL that the page server may still have to write to its disk before writers are slowed down.",
							"0 means without limit.",
							&zenith_max_flush_lag_mb,
							10 * 1024, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.max_replication_apply_lag",
							"WAL that the page server may still have to put in object storage before writers are slowed down.",
							"0 means without limit.",
							&zenith_max_apply_lag_mb,
							0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.max_backpressure_delay",
							"Time that a statement is held up in all when the page server is too far behind.",
							"Less if the page server stands still.",
							&zenith_max_backpressure_delay_ms,
							30000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.max_cluster_size",
							"Size that all databases together may have before relations can't be extended.",
							"0 means without limit. Temporary and unlogged relations don't count.",
							&zenith_max_cluster_size_mb,
							0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.readahead_pages",
							"Pages that each backend keeps for reading ahead.",
							"Rounded down to a power of two. 0 turns reading ahead off.",
							&zenith_readahead_pages,
							256, 0, 4096,
							PGC_BACKEND, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.file_cache_size",
							"Size of the local file that caches pages of the page server.",
							"0 turns it off.",
							&zenith_file_cache_mb,
							0, 0, INT_MAX / 1024,
							PGC_POSTMASTER, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.max_database_copy_size",
							"Largest database that is copied or moved as a whole.",
							"The page server needs as much memory for it. Larger ones are created page by page, and not moved.",
							&zenith_max_database_copy_mb,
							1024, 0, 8 * 1024,
							PGC_POSTMASTER, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.relation_size_cache_entries",
							"Relation forks whose size is remembered in shared memory.",
							NULL,
							&zenith_size_cache_entries,
							64 * 1024, 1024, 16 * 1024 * 1024,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.last_written_lsn_entries",
							"Slots for the LSNs of pages that left the buffer pool.",
							"Rounded up to a power of two. With few slots, reads wait for newer WAL than they need.",
							&zenith_lsn_cache_entries,
							1024 * 1024, 1024, 256 * 1024 * 1024,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("zenith.pageserver_outage_timeout",
							"Time after which a read fails when the page server can't be reached.",
							"0 means to keep trying forever.",
							&zenith_outage_timeout_s,
							300, 0, INT_MAX / 1000,
							PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("zenith.transient_state_logging",
							 "How state that redo can't rebuild is logged when a page leaves the buffer pool.",
							 "\"off\" gives wrong results in open transactions; it is there for tests.",
							 &zenith_transient_logging,
							 ZENITH_TRANSIENT_FRAGMENTS, transient_logging_options,
							 PGC_SUSET, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("zenith");
}

/*
 * A preloaded library may have brought WAL records of its own.  The page
 * server couldn't take them in, so better not to write any.
 */
static void
check_resource_managers(void)
{
	for (int rmid = RM_MIN_CUSTOM_ID; rmid <= RM_MAX_CUSTOM_ID; rmid++)
	{
		if (RmgrIdExists((RmgrId) rmid))
			ereport(FATAL,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the custom resource manager \"%s\" of a preloaded library is not supported",
							GetRmgr((RmgrId) rmid).rm_name),
					 errdetail("The page server rebuilds pages without extensions, so it cannot apply WAL records of theirs."),
					 errhint("Take the library out of shared_preload_libraries.")));
	}
}

/*
 * Refuse to start with settings that would lose data.  Called when all
 * settings have been read and a page server is configured.
 */
void
zenith_check_settings(void)
{
	const char *checksums;

	if (strlen(zenith_tenant_id) != 32 || strlen(zenith_timeline_id) != 32)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("zenith.tenant_id and zenith.timeline_id must be set"),
				 errhint("They name the branch whose pages are asked of the page server.")));
	if (zenith_start_lsn < ZENITH_FIRST_REAL_LSN)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("zenith.start_lsn must be set to the LSN of the base backup")));
	if (wal_level == WAL_LEVEL_MINIMAL)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("wal_level must not be \"minimal\" when relations are kept by a page server"),
				 errdetail("The page server knows of changes from the WAL alone."),
				 errhint("Set wal_level to \"replica\" or \"logical\".")));
	if (max_wal_senders == 0)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_wal_senders must not be 0 when relations are kept by a page server"),
				 errdetail("The WAL is sent to the safekeepers through a WAL sender."),
				 errhint("Set max_wal_senders to 10, or leave it at its default.")));
	check_resource_managers();
	checksums = GetConfigOption("data_checksums", true, false);
	if (checksums && strcmp(checksums, "on") == 0)
		ereport(FATAL,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("data checksums must be off when relations are kept by a page server"),
				 errdetail("Pages that were rebuilt from WAL carry no checksums.")));
}
