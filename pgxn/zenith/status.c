/*-------------------------------------------------------------------------
 *
 * status.c
 *	  Where a compute stands, for SQL: places in the WAL and use of the caches.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "funcapi.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "zenith.h"

PG_FUNCTION_INFO_V1(zenith_wal_status);
PG_FUNCTION_INFO_V1(zenith_cache_usage);

/*
 * What the proposer, the synchronous standby, has reported: how far a quorum of
 * safekeepers has the WAL, and how far the page server has made it durable.
 * False if it isn't there.
 */
bool
zenith_proposer_positions(XLogRecPtr *quorum, XLogRecPtr *pageserver)
{
	bool		found = false;

	*quorum = *pageserver = InvalidXLogRecPtr;
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *walsnd = &WalSndCtl->walsnds[i];

		SpinLockAcquire(&walsnd->mutex);
		if (walsnd->pid != 0 && walsnd->sync_standby_priority > 0)
		{
			*quorum = Max(*quorum, walsnd->flush);
			*pageserver = Max(*pageserver, walsnd->apply);
			found = true;
		}
		SpinLockRelease(&walsnd->mutex);
	}
	return found;
}

static void
put_lsn(Datum *value, bool *isnull, XLogRecPtr lsn)
{
	*value = LSNGetDatum(lsn);
	*isnull = XLogRecPtrIsInvalid(lsn);
}

static void
put_lag(Datum *value, bool *isnull, XLogRecPtr from, XLogRecPtr to)
{
	*isnull = XLogRecPtrIsInvalid(from) || XLogRecPtrIsInvalid(to);
	*value = Int64GetDatum(from > to ? (int64) (from - to) : 0);
}

/*
 * zenith.wal_status(): insert_lsn, flush_lsn, quorum_lsn, pageserver_lsn,
 * replay_lsn, quorum_lag, pageserver_lag.  A primary has no replay_lsn, the
 * others nothing else.
 */
Datum
zenith_wal_status(PG_FUNCTION_ARGS)
{
	TupleDesc	descriptor;
	Datum		values[7] = {0};
	bool		nulls[7] = {true, true, true, true, true, true, true};
	XLogRecPtr	quorum;
	XLogRecPtr	pageserver;

	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	if (RecoveryInProgress())
		put_lsn(&values[4], &nulls[4], GetXLogReplayRecPtr(NULL));
	else
	{
		XLogRecPtr	flushed = GetFlushRecPtr(NULL);

		(void) zenith_proposer_positions(&quorum, &pageserver);
		put_lsn(&values[0], &nulls[0], GetXLogInsertRecPtr());
		put_lsn(&values[1], &nulls[1], flushed);
		put_lsn(&values[2], &nulls[2], quorum);
		put_lsn(&values[3], &nulls[3], pageserver);
		put_lag(&values[5], &nulls[5], flushed, quorum);
		put_lag(&values[6], &nulls[6], flushed, pageserver);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls)));
}

static void
put_cache(ReturnSetInfo *rsinfo, const char *name, uint64 used, uint64 capacity)
{
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	values[0] = CStringGetTextDatum(name);
	values[1] = Int64GetDatum((int64) used);
	values[2] = Int64GetDatum((int64) capacity);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* zenith.cache_usage(): per cache its name, entries in use, and room for entries. */
Datum
zenith_cache_usage(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		used;
	uint64		capacity;

	InitMaterializedSRF(fcinfo, 0);
	if (zenith_file_cache_usage(&used, &capacity))
		put_cache(rsinfo, "pages", used, capacity);
	if (zenith_size_usage(&used, &capacity))
		put_cache(rsinfo, "relation sizes", used, capacity);
	return (Datum) 0;
}
