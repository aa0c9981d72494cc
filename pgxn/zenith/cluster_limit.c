/*-------------------------------------------------------------------------
 *
 * cluster_limit.c
 *	  A limit on what all databases of the branch measure together.
 *
 * The page server knows the size, as of the WAL that it has taken in, and tells
 * it with its positions (progress.c).  While zenith.max_cluster_size is set, a
 * relation that would make it larger than that can't be extended: the statement
 * fails as on a full disk.  Pages that there are can be written as before.
 *
 * What has been logged since that word may have made the cluster larger, or
 * smaller, if something was dropped.  So if all of it together might not fit,
 * a backend waits for a word that knows of it, but not for long: a page server
 * that is slow or gone delays it, and the last word holds.
 *
 * Whatever makes room, or only changes how things are described, is exempt:
 * TRUNCATE, which logs the first pages of empty indexes, VACUUM, DROP, and all
 * catalogs but the one with large objects.  So are autovacuum, replay and the
 * other processes that Postgres itself depends on.  Temporary and unlogged
 * relations are files of this compute and don't count.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_largeobject.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "zenith.h"

#define NAP_MS		10
#define PATIENCE_MS 1000

#define MEGABYTE	UINT64CONST(1048576)

/* How many statements that are exempt are running, one within another */
static int	exempt_statements = 0;

/* Does this statement make room? */
static bool
makes_room(const Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_TruncateStmt:
		case T_VacuumStmt:
		case T_DropStmt:
		case T_DropdbStmt:
			return true;
		default:
			return false;
	}
}

/* Returns whether the statement is exempt; then zenith_cluster_limit_leave() must follow. */
bool
zenith_cluster_limit_enter(const Node *statement)
{
	if (!makes_room(statement))
		return false;
	exempt_statements++;
	return true;
}

void
zenith_cluster_limit_leave(void)
{
	Assert(exempt_statements > 0);
	exempt_statements--;
}

/*
 * Relations keep their numbers below FirstNormalObjectId as long as they are
 * not rewritten, and no others have such numbers.
 */
static bool
is_catalog(RelFileLocator locator)
{
	return locator.relNumber < FirstNormalObjectId &&
		locator.relNumber != LargeObjectRelationId &&
		locator.relNumber != LargeObjectLOidPNIndexId;
}

/* Those that work for a client, or in its place; workers of a parallel VACUUM don't know that they are. */
static bool
is_limited_process(void)
{
	return (MyBackendType == B_BACKEND ||
			(MyBackendType == B_BG_WORKER && !IsParallelWorker())) &&
		CritSectionCount == 0 && IsTransactionState() && !RecoveryInProgress();
}

/* Wait until the page server has told a size that is as of this LSN, or later. */
static void
await_size_as_of(XLogRecPtr lsn, uint64 *size)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PATIENCE_MS);
	XLogRecPtr	as_of;

	zenith_flush_for_read(lsn);
	while (zenith_progress_size(size, &as_of) && as_of < lsn &&
		   GetCurrentTimestamp() < deadline)
	{
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					  NAP_MS, zenith_wait_cluster_size) & WL_LATCH_SET)
			zenith_borrow_latch();
		zenith_check_interrupts();
	}
	zenith_return_latch();
}

static void
check_growth(uint64 added)
{
	uint64		limit = zenith_max_cluster_size_mb * MEGABYTE;
	XLogRecPtr	now;
	XLogRecPtr	as_of;
	uint64		size;

	if (!zenith_progress_size(&size, &as_of))
		return;
	now = zenith_insert_position();
	if (size + added + (now > as_of ? now - as_of : 0) <= limit)
		return;
	if (as_of < now)
		await_size_as_of(now, &size);
	if (size + added <= limit)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DISK_FULL),
			 errmsg("the databases of this branch have reached their size limit of %d MB",
					zenith_max_cluster_size_mb),
			 errdetail("They have %llu MB.", (unsigned long long) (size / MEGABYTE)),
			 errhint("DROP or TRUNCATE what is not needed, or raise the limit: zenith.max_cluster_size, which \"zenith tenant set --max-size\" sets for all branches.")));
}

/* Called before the main fork of a permanent relation grows. */
void
zenith_cluster_limit_check(RelFileLocator locator, int blocks)
{
	if (zenith_max_cluster_size_mb > 0 && exempt_statements == 0 &&
		!is_catalog(locator) && is_limited_process())
		check_growth((uint64) blocks * BLCKSZ);
}

/* Called before a database is created, whose catalogs would be exempt otherwise. */
void
zenith_cluster_limit_check_copy(int64 bytes)
{
	if (zenith_max_cluster_size_mb > 0 && is_limited_process())
		check_growth((uint64) bytes);
}
