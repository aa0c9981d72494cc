/*-------------------------------------------------------------------------
 *
 * zenith.c
 *	  Start of the extension, and its functions for SQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xlogbackup.h"
#include "catalog/pg_class.h"
#include "common/relpath.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/wait_event.h"

#include "zenith.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(zenith_last_written_lsn);
PG_FUNCTION_INFO_V1(zenith_replication_apply_lag);

uint32		zenith_wait_connect = 0;
uint32		zenith_wait_page = 0;
uint32		zenith_wait_size = 0;
uint32		zenith_wait_readahead = 0;
uint32		zenith_wait_reconnect = 0;
uint32		zenith_wait_backpressure = 0;
uint32		zenith_wait_cluster_size = 0;
uint32		zenith_wait_replay = 0;
uint32		zenith_wait_quorum = 0;
uint32		zenith_wait_supervisor = 0;

static bool active = false;
static shmem_request_hook_type previous_shmem_request_hook = NULL;
static shmem_startup_hook_type previous_shmem_startup_hook = NULL;

PGDLLEXPORT void _PG_init(void);

static void
request_shared_memory(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();

	RequestAddinShmemSpace(zenith_shard_map_shmem_size());
	RequestAddinShmemSpace(zenith_counters_shmem_size());
	RequestAddinShmemSpace(zenith_lsn_shmem_size());
	RequestAddinShmemSpace(zenith_size_shmem_size());
	RequestAddinShmemSpace(zenith_side_shmem_size());
	RequestAddinShmemSpace(zenith_file_cache_shmem_size());
	RequestAddinShmemSpace(zenith_sequence_shmem_size());
	RequestAddinShmemSpace(zenith_backpressure_shmem_size());
	RequestNamedLWLockTranche("ZenithSequenceState", ZENITH_SEQUENCE_LOCKS);
	RequestNamedLWLockTranche("ZenithFileCache", ZENITH_FILE_CACHE_LOCKS);
	RequestNamedLWLockTranche("ZenithRelationSize", ZENITH_SIZE_LOCKS);
	RequestNamedLWLockTranche("ZenithSideFile", 1);
}

static void
start_shared_memory(void)
{
	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();

	zenith_check_settings();
	zenith_progress_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	zenith_shard_map_shmem_init();
	zenith_counters_shmem_init();
	zenith_lsn_shmem_init();
	zenith_size_shmem_init();
	zenith_side_shmem_init();
	zenith_file_cache_shmem_init();
	zenith_sequence_shmem_init();
	zenith_backpressure_shmem_init();
	LWLockRelease(AddinShmemInitLock);

	zenith_wait_connect = WaitEventExtensionNew("ZenithPageserverConnect");
	zenith_wait_page = WaitEventExtensionNew("ZenithPageRead");
	zenith_wait_size = WaitEventExtensionNew("ZenithSizeRead");
	zenith_wait_readahead = WaitEventExtensionNew("ZenithReadahead");
	zenith_wait_reconnect = WaitEventExtensionNew("ZenithPageserverReconnect");
	zenith_wait_backpressure = WaitEventExtensionNew("ZenithBackpressure");
	zenith_wait_cluster_size = WaitEventExtensionNew("ZenithClusterSize");
	zenith_wait_replay = WaitEventExtensionNew("ZenithReplay");
	zenith_wait_quorum = WaitEventExtensionNew("ZenithQuorum");
	zenith_wait_supervisor = WaitEventExtensionNew("ZenithSupervisor");
}

/* BASE_BACKUP and pg_backup_start() */
static void
refuse_backup(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the data directory of a compute cannot be backed up"),
			 errdetail("Relations are kept by the page server, not in files."),
			 errhint("Create a branch, which keeps this state; or ask the page server for a full backup.")));
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("zenith must be loaded when the server starts"),
				 errhint("Add zenith to shared_preload_libraries and restart.")));

	zenith_define_settings();

	/* Without a page server, and in single-user mode, this is stock Postgres */
	if (!IsPostmasterEnvironment || !zenith_has_pageserver())
		return;

	active = true;
	SyncRepIgnoresCancel = true;
	backup_start_hook = refuse_backup;
	zenith_smgr_register();
	zenith_utility_guard_register();
	zenith_database_copies_register();
	zenith_backpressure_register();
	zenith_init_forks_register();
	zenith_shutdown_worker_register();
	zenith_standby_register();
	zenith_replication_state_register();

	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shared_memory;
}

/*
 * zenith.last_written_lsn(relation regclass, fork text, block bigint): what a
 * read of the block, or of the fork's size if block is null, would tell the
 * page server to wait for.
 */
Datum
zenith_last_written_lsn(PG_FUNCTION_ARGS)
{
	Relation	relation;
	ForkNumber	forknum;
	XLogRecPtr	lsn;

	if (!active || PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();

	forknum = forkname_to_number(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	relation = relation_open(PG_GETARG_OID(0), AccessShareLock);
	if (!RELKIND_HAS_STORAGE(relation->rd_rel->relkind) || !RelationIsPermanent(relation))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation \"%s\" is not kept by the page server",
						RelationGetRelationName(relation))));
	if (PG_ARGISNULL(2))
		lsn = zenith_lsn_of_size(relation->rd_locator, forknum);
	else
	{
		int64		block = PG_GETARG_INT64(2);

		if (block < 0 || block > MaxBlockNumber)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("block number %lld is out of range", (long long) block)));
		lsn = zenith_lsn_of_block(relation->rd_locator, forknum, (BlockNumber) block);
	}
	relation_close(relation, AccessShareLock);
	PG_RETURN_LSN(lsn);
}

/* zenith.replication_apply_lag(): bytes that the page server is behind. */
Datum
zenith_replication_apply_lag(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) zenith_apply_lag());
}
