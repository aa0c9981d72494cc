/*-------------------------------------------------------------------------
 *
 * zenith_test_utils.c
 *	  Functions that tests of the storage need.  Not for production.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlogdefs.h"
#include "common/relpath.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "varatt.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(clear_buffer_cache);
PG_FUNCTION_INFO_V1(get_raw_page_at_lsn);

typedef void (*read_page_type) (RelFileLocator locator, ForkNumber forknum, BlockNumber block,
								XLogRecPtr request_lsn, XLogRecPtr not_modified_since,
								char *page);

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
	read_page_type read_page;

	for (int i = 0; i < 5; i++)
	{
		if (PG_ARGISNULL(i))
			PG_RETURN_NULL();
	}
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to read raw pages")));

	read_page = (read_page_type) load_external_function("$libdir/zenith", "zenith_read_page_at_lsn",
														true, NULL);
	locator.spcOid = PG_GETARG_OID(0);
	locator.dbOid = PG_GETARG_OID(1);
	locator.relNumber = PG_GETARG_OID(2);

	result = (bytea *) palloc(BLCKSZ + VARHDRSZ);
	SET_VARSIZE(result, BLCKSZ + VARHDRSZ);
	read_page(locator, forkname_to_number(text_to_cstring(PG_GETARG_TEXT_PP(3))),
			  (BlockNumber) PG_GETARG_INT64(4),
			  PG_ARGISNULL(5) ? PG_UINT64_MAX : PG_GETARG_LSN(5),
			  PG_ARGISNULL(6) ? InvalidXLogRecPtr : PG_GETARG_LSN(6),
			  VARDATA(result));
	PG_RETURN_BYTEA_P(result);
}
