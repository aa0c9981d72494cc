/*-------------------------------------------------------------------------
 *
 * counters.c
 *	  Counters of all processes, shown by the view zenith.getpage_stats.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "zenith.h"

typedef struct CounterInfo
{
	const char *name;
	const char *description;
} CounterInfo;

#define COUNTER_INFO(id, name, description) {name, description},
static const CounterInfo counter_info[] = {ZENITH_COUNTERS(COUNTER_INFO)};
#undef COUNTER_INFO

static pg_atomic_uint64 *counters = NULL;

PG_FUNCTION_INFO_V1(zenith_getpage_stats);
PG_FUNCTION_INFO_V1(zenith_getpage_stats_reset);

Size
zenith_counters_shmem_size(void)
{
	return ZENITH_COUNTER_COUNT * sizeof(pg_atomic_uint64);
}

void
zenith_counters_shmem_init(void)
{
	bool		found;

	counters = ShmemInitStruct("zenith counters", zenith_counters_shmem_size(), &found);
	if (!found)
	{
		for (int i = 0; i < ZENITH_COUNTER_COUNT; i++)
			pg_atomic_init_u64(&counters[i], 0);
	}
}

void
zenith_count(ZenithCounter counter, uint64 amount)
{
	pg_atomic_fetch_add_u64(&counters[counter], amount);
}

Datum
zenith_getpage_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; counters != NULL && i < ZENITH_COUNTER_COUNT; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false, false, false};

		values[0] = CStringGetTextDatum(counter_info[i].name);
		values[1] = Int64GetDatum((int64) pg_atomic_read_u64(&counters[i]));
		values[2] = CStringGetTextDatum(counter_info[i].description);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
zenith_getpage_stats_reset(PG_FUNCTION_ARGS)
{
	for (int i = 0; counters != NULL && i < ZENITH_COUNTER_COUNT; i++)
		pg_atomic_write_u64(&counters[i], 0);
	PG_RETURN_VOID();
}
