/*-------------------------------------------------------------------------
 *
 * backpressure.c
 *	  Slow writers down when the page server can't follow.
 *
 * All WAL that the page server hasn't made durable must be kept by the
 * safekeepers, and reads of fresh pages wait for it.  progress.c tells how far
 * the page server is; if one of its three positions is further behind what has
 * been flushed here than its limit allows, backends sleep: before a statement
 * that writes, when they extend relations or drop pages, and before they commit.
 *
 * Nobody sleeps for ever.  A statement sleeps for zenith.max_backpressure_delay
 * in all; afterwards, while the page server still gets on, for one nap at each
 * of these places.  While it stands still, the time allowed halves every ten
 * seconds, down to a single nap: a page server that is dead costs time, and
 * does not stop anybody from writing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "zenith.h"

#define NAP_MS 10
#define HALVING_US INT64CONST(10000000)
#define MOST_HALVINGS 20

/* Look at the positions only every so many page writes */
#define CALLS_PER_LOOK 16

#define MEGABYTE UINT64CONST(1048576)

typedef struct BackpressureState
{
	/* When a limit was exceeded first; 0 while none is */
	pg_atomic_uint64 since;
	/* What each position was when it was looked at last, and since when */
	pg_atomic_uint64 seen[ZENITH_POSITION_COUNT];
	pg_atomic_uint64 seen_since[ZENITH_POSITION_COUNT];
} BackpressureState;

typedef struct Excess
{
	ZenithPosition position;
	XLogRecPtr	lsn;
	uint64		lag;
	uint64		limit;
} Excess;

static const char *const position_names[] = {"received", "on disk", "in object storage"};

static BackpressureState *state = NULL;
static ExecutorStart_hook_type previous_executor_start = NULL;

/* What this statement has slept so far */
static TimestampTz statement = 0;
static int64 slept_us = 0;

PG_FUNCTION_INFO_V1(zenith_backpressure_status);

Size
zenith_backpressure_shmem_size(void)
{
	return sizeof(BackpressureState);
}

void
zenith_backpressure_shmem_init(void)
{
	bool		found;

	state = ShmemInitStruct("zenith backpressure", sizeof(BackpressureState), &found);
	if (found)
		return;
	pg_atomic_init_u64(&state->since, 0);
	for (int i = 0; i < ZENITH_POSITION_COUNT; i++)
	{
		pg_atomic_init_u64(&state->seen[i], 0);
		pg_atomic_init_u64(&state->seen_since[i], 0);
	}
}

static uint64
limit_of(ZenithPosition position)
{
	switch (position)
	{
		case ZENITH_RECEIVED:
			return zenith_max_write_lag_mb * MEGABYTE;
		case ZENITH_ON_DISK:
			return zenith_max_flush_lag_mb * MEGABYTE;
		default:
			return zenith_max_apply_lag_mb * MEGABYTE;
	}
}

static uint64
lag_behind(XLogRecPtr flushed, XLogRecPtr lsn)
{
	return XLogRecPtrIsInvalid(lsn) || lsn > flushed ? 0 : flushed - lsn;
}

/* How many bytes of WAL object storage hasn't got; 0 if nobody tells. */
uint64
zenith_apply_lag(void)
{
	XLogRecPtr	lsns[ZENITH_POSITION_COUNT];

	if (RecoveryInProgress())
		return 0;
	zenith_progress(lsns);
	return lag_behind(GetFlushRecPtr(NULL), lsns[ZENITH_IN_OBJECT_STORAGE]);
}

/* Whether a position is too far behind, and which. */
static bool
find_excess(Excess *excess)
{
	XLogRecPtr	lsns[ZENITH_POSITION_COUNT];
	XLogRecPtr	flushed;

	if (RecoveryInProgress())
		return false;
	flushed = GetFlushRecPtr(NULL);
	zenith_progress(lsns);
	for (int i = 0; i < ZENITH_POSITION_COUNT; i++)
	{
		excess->position = i;
		excess->lsn = lsns[i];
		excess->lag = lag_behind(flushed, lsns[i]);
		excess->limit = limit_of(i);
		if (excess->limit > 0 && excess->lag > excess->limit)
			return true;
	}
	return false;
}

static void
note_begin(const Excess *excess, TimestampTz now)
{
	uint64		none = 0;

	if (!pg_atomic_compare_exchange_u64(&state->since, &none, (uint64) now))
		return;
	for (int i = 0; i < ZENITH_POSITION_COUNT; i++)
		pg_atomic_write_u64(&state->seen_since[i], (uint64) now);
	zenith_progress_holds_up(true);
	ereport(LOG,
			(errmsg("writers are slowed down: the page server has %llu MB of WAL still not %s, and %llu MB are allowed",
					(unsigned long long) (excess->lag / MEGABYTE),
					position_names[excess->position],
					(unsigned long long) (excess->limit / MEGABYTE))));
}

static void
note_end(void)
{
	uint64		since = pg_atomic_read_u64(&state->since);

	if (since == 0 || !pg_atomic_compare_exchange_u64(&state->since, &since, 0))
		return;
	zenith_progress_holds_up(false);
	ereport(LOG,
			(errmsg("writers are not slowed down any more: the page server has caught up after %.1f s",
					(GetCurrentTimestamp() - (TimestampTz) since) / 1e6)));
}

/* For how long the position has not moved. */
static int64
standstill_us(const Excess *excess, TimestampTz now)
{
	pg_atomic_uint64 *seen = &state->seen[excess->position];
	pg_atomic_uint64 *since = &state->seen_since[excess->position];

	if (pg_atomic_read_u64(seen) != excess->lsn)
	{
		pg_atomic_write_u64(seen, excess->lsn);
		pg_atomic_write_u64(since, (uint64) now);
		return 0;
	}
	return Max(0, now - (TimestampTz) pg_atomic_read_u64(since));
}

/* What a statement may sleep in all while the page server has stood still for so long. */
static int64
allowance_us(int64 standstill)
{
	int64		halvings = Min(standstill / HALVING_US, MOST_HALVINGS);

	return Max(zenith_max_backpressure_delay_ms * INT64CONST(1000) >> halvings,
			   NAP_MS * INT64CONST(1000));
}

/* One nap, interruptible; true if the latch was set meanwhile. */
static bool
take_nap(void)
{
	instr_time	start;
	instr_time	end;
	int			woken;

	INSTR_TIME_SET_CURRENT(start);
	woken = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					  NAP_MS, zenith_wait_backpressure);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	slept_us += INSTR_TIME_GET_MICROSEC(end);
	zenith_count(ZENITH_BACKPRESSURE_US, INSTR_TIME_GET_MICROSEC(end));
	zenith_progress_slept(INSTR_TIME_GET_MICROSEC(end));
	if (!(woken & WL_LATCH_SET))
		return false;
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}

static void
wait_for_pageserver(Excess *excess)
{
	bool		latch_was_set = false;

	if (statement != GetCurrentStatementStartTimestamp())
	{
		statement = GetCurrentStatementStartTimestamp();
		slept_us = 0;
	}
	note_begin(excess, GetCurrentTimestamp());
	zenith_count(ZENITH_BACKPRESSURE_WAITS, 1);
	for (;;)
	{
		int64		standstill = standstill_us(excess, GetCurrentTimestamp());
		bool		spent = slept_us >= allowance_us(standstill);

		if (spent && standstill >= HALVING_US)
		{
			zenith_count(ZENITH_BACKPRESSURE_GIVEN_UP, 1);
			break;
		}
		latch_was_set |= take_nap();
		/* With locks held, one nap is enough: others may be waiting for us */
		if (spent || InterruptHoldoffCount > 0)
			break;
		if (!find_excess(excess))
		{
			note_end();
			break;
		}
	}
	if (latch_was_set)
		SetLatch(MyLatch);
}

static bool
has_limits(void)
{
	return zenith_max_write_lag_mb > 0 || zenith_max_flush_lag_mb > 0 || zenith_max_apply_lag_mb > 0;
}

/* Sleep if need be. */
static void
slow_down(void)
{
	Excess		excess;

	if (has_limits() && find_excess(&excess))
		wait_for_pageserver(&excess);
	else
		note_end();
}

/* Those that all others depend on never sleep. */
static bool
may_sleep(void)
{
	return (MyBackendType == B_BACKEND || MyBackendType == B_BG_WORKER ||
			MyBackendType == B_AUTOVAC_WORKER) &&
		CritSectionCount == 0 && IsTransactionState();
}

/* Called by the storage manager's writers. */
void
zenith_backpressure(void)
{
	static int	calls = 0;

	if (++calls % CALLS_PER_LOOK == 0 && may_sleep())
		slow_down();
}

/* Only transactions that have logged something, which leaves out those in temporary tables. */
static void
before_commit(XactEvent event, void *arg)
{
	if ((event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE) &&
		XactLastRecEnd != 0 && may_sleep())
		slow_down();
}

/* Whether a statement changes a table whose changes are logged. */
static bool
writes_wal(const PlannedStmt *planned)
{
	ListCell   *cell;

	foreach(cell, planned->resultRelations)
	{
		RangeTblEntry *entry = rt_fetch(lfirst_int(cell), planned->rtable);

		if (get_rel_persistence(entry->relid) == RELPERSISTENCE_PERMANENT)
			return true;
	}
	return false;
}

static void
before_statement(QueryDesc *query, int flags)
{
	Excess		excess;

	if (query->plannedstmt->resultRelations != NIL && !(flags & EXEC_FLAG_EXPLAIN_ONLY) &&
		may_sleep() && has_limits())
	{
		if (!find_excess(&excess))
			note_end();
		else if (writes_wal(query->plannedstmt))
			wait_for_pageserver(&excess);
	}
	(previous_executor_start ? previous_executor_start : standard_ExecutorStart) (query, flags);
}

void
zenith_backpressure_register(void)
{
	RegisterXactCallback(before_commit, NULL);
	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = before_statement;
}

/*
 * zenith.backpressure_status(): for each position of the page server its LSN,
 * how far it is behind, how far it may be (null = any), whether that is too far.
 */
Datum
zenith_backpressure_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	XLogRecPtr	lsns[ZENITH_POSITION_COUNT];
	XLogRecPtr	flushed;

	InitMaterializedSRF(fcinfo, 0);
	if (state == NULL || RecoveryInProgress())
		return (Datum) 0;
	flushed = GetFlushRecPtr(NULL);
	zenith_progress(lsns);
	for (int i = 0; i < ZENITH_POSITION_COUNT; i++)
	{
		uint64		lag = lag_behind(flushed, lsns[i]);
		uint64		limit = limit_of(i);
		Datum		values[5];
		bool		nulls[5] = {false, XLogRecPtrIsInvalid(lsns[i]), false, limit == 0, false};

		values[0] = CStringGetTextDatum(position_names[i]);
		values[1] = LSNGetDatum(lsns[i]);
		values[2] = Int64GetDatum((int64) lag);
		values[3] = Int64GetDatum((int64) limit);
		values[4] = BoolGetDatum(limit > 0 && lag > limit);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
