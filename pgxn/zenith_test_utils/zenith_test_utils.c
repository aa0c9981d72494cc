/*-------------------------------------------------------------------------
 *
 * zenith_test_utils.c
 *	  Functions that tests of the storage need.  Not for production.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xlogdefs.h"
#include "common/relpath.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "varatt.h"

#include "page_reader.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(clear_buffer_cache);
PG_FUNCTION_INFO_V1(get_raw_page_at_lsn);
PG_FUNCTION_INFO_V1(scribble_on_buffer);
PG_FUNCTION_INFO_V1(shard_of_stripe);

/* Throw every page out of shared buffers that nobody has pinned. */
Datum
clear_buffer_cache(PG_FUNCTION_ARGS)
{
	int64		evicted = 0;

	for (Buffer buffer = 1; buffer <= NBuffers; buffer++)
	{
		CHECK_FOR_INTERRUPTS();
		if (EvictUnpinnedBuffer(buffer))
			evicted++;
	}
	PG_RETURN_INT64(evicted);
}

/*
 * A page as the page server has it at an LSN, bypassing all caches.  Null for
 * the request LSN means the newest state.
 */
Datum
get_raw_page_at_lsn(PG_FUNCTION_ARGS)
{
	RelFileLocator locator;
	bytea	   *result;

	for (int i = 0; i < 5; i++)
	{
		if (PG_ARGISNULL(i))
			PG_RETURN_NULL();
	}
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to read raw pages")));

	locator.spcOid = PG_GETARG_OID(0);
	locator.dbOid = PG_GETARG_OID(1);
	locator.relNumber = PG_GETARG_OID(2);

	result = (bytea *) palloc(BLCKSZ + VARHDRSZ);
	SET_VARSIZE(result, BLCKSZ + VARHDRSZ);
	zenith_read_pages_at(locator, forkname_to_number(text_to_cstring(PG_GETARG_TEXT_PP(3))),
						 (BlockNumber) PG_GETARG_INT64(4), 1,
						 PG_ARGISNULL(5) ? PG_UINT64_MAX : PG_GETARG_LSN(5),
						 PG_ARGISNULL(6) ? InvalidXLogRecPtr : PG_GETARG_LSN(6),
						 VARDATA(result));
	PG_RETURN_BYTEA_P(result);
}

/*
 * Change a bit of a page in memory, without WAL and without marking it dirty,
 * for tests of those who must notice.
 */
Datum
scribble_on_buffer(PG_FUNCTION_ARGS)
{
	Relation	relation;
	Buffer		buffer;
	int32		byte = PG_GETARG_INT32(3);

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to damage buffers")));
	if (byte < 0 || byte >= BLCKSZ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a page has no byte %d", byte)));

	relation = relation_open(PG_GETARG_OID(0), AccessShareLock);
	buffer = ReadBufferExtended(relation, forkname_to_number(text_to_cstring(PG_GETARG_TEXT_PP(1))),
								(BlockNumber) PG_GETARG_INT64(2), RBM_NORMAL, NULL);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	BufferGetPage(buffer)[byte] ^= 1;
	UnlockReleaseBuffer(buffer);
	relation_close(relation, AccessShareLock);
	PG_RETURN_VOID();
}

/* Which shard a compute would ask for a stripe. */
Datum
shard_of_stripe(PG_FUNCTION_ARGS)
{
	int64		stripe = PG_GETARG_INT64(1);
	int32		shards = PG_GETARG_INT32(2);

	if (stripe < 0 || stripe > PG_UINT32_MAX || shards < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no stripe %lld of %d shards", (long long) stripe, shards)));
	PG_RETURN_INT32(zenith_shard_of(PG_GETARG_OID(0), (uint32) stripe, shards));
}
