/*-------------------------------------------------------------------------
 *
 * lsn_bounds.c
 *	  For every block that isn't in the buffer pool, an upper bound of the LSN
 *	  of its newest change: the last-written LSN.
 *
 * A read tells the page server this bound, and the page server waits until it
 * has seen the WAL up to there.  A bound that is too high costs waiting, one
 * that is too low gives an old page, so nothing may ever be forgotten.  That
 * rules out a cache with eviction; instead there is an array of atomic LSNs
 * that only grow, and each block has two slots in it, given by two hash
 * functions.  Setting raises both, reading takes the lower.  No locks, and
 * usable in critical sections.
 *
 * Three kinds of keys aren't blocks: one bounds the size of a fork, one all
 * blocks of a fork at once (after a truncation), and one the records that were
 * logged because a page of the relation was written.  And there is a floor
 * below all of them, for records that change a whole database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "access/xlog_internal.h"
#include "common/hashfn.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"

#include "zenith.h"

/* Block numbers of the keys that aren't blocks */
#define KEY_SIZE		InvalidBlockNumber
#define KEY_ALL_BLOCKS	(InvalidBlockNumber - 1)
#define KEY_WRITES		(InvalidBlockNumber - 2)

typedef struct LsnKey
{
	RelFileLocator locator;
	ForkNumber	forknum;
	BlockNumber block;
} LsnKey;

typedef struct LsnBounds
{
	pg_atomic_uint64 floor;
	pg_atomic_uint64 slots[FLEXIBLE_ARRAY_MEMBER];
} LsnBounds;

static LsnBounds *bounds = NULL;
static pg_atomic_uint64 *slots = NULL;
static uint32 slot_mask = 0;

static uint32
slot_count(void)
{
	return pg_nextpower2_32(zenith_lsn_cache_entries);
}

Size
zenith_lsn_shmem_size(void)
{
	return add_size(offsetof(LsnBounds, slots),
					mul_size(slot_count(), sizeof(pg_atomic_uint64)));
}

void
zenith_lsn_shmem_init(void)
{
	bool		found;
	uint32		n = slot_count();

	bounds = ShmemInitStruct("zenith last-written LSNs", zenith_lsn_shmem_size(), &found);
	slots = bounds->slots;
	slot_mask = n - 1;
	if (!found)
	{
		pg_atomic_init_u64(&bounds->floor, zenith_start_lsn);
		for (uint32 i = 0; i < n; i++)
			pg_atomic_init_u64(&slots[i], zenith_start_lsn);
	}
}

static inline void
find_slots(RelFileLocator locator, ForkNumber forknum, BlockNumber block,
		   pg_atomic_uint64 **a, pg_atomic_uint64 **b)
{
	LsnKey		key = {locator, forknum, block};
	uint64		hash = hash_bytes_extended((const unsigned char *) &key, sizeof(key), 0);

	*a = &slots[(uint32) hash & slot_mask];
	*b = &slots[(uint32) (hash >> 32) & slot_mask];
}

static inline void
raise_slot(pg_atomic_uint64 *slot, XLogRecPtr lsn)
{
	uint64		old = pg_atomic_read_u64(slot);

	while (old < lsn && !pg_atomic_compare_exchange_u64(slot, &old, lsn))
		;
}

static void
set_bound(RelFileLocator locator, ForkNumber forknum, BlockNumber block, XLogRecPtr lsn)
{
	pg_atomic_uint64 *a;
	pg_atomic_uint64 *b;

	find_slots(locator, forknum, block, &a, &b);
	raise_slot(a, lsn);
	raise_slot(b, lsn);
}

static XLogRecPtr
get_bound(RelFileLocator locator, ForkNumber forknum, BlockNumber block)
{
	pg_atomic_uint64 *a;
	pg_atomic_uint64 *b;

	find_slots(locator, forknum, block, &a, &b);
	return Max(Min(pg_atomic_read_u64(a), pg_atomic_read_u64(b)),
			   pg_atomic_read_u64(&bounds->floor));
}

XLogRecPtr
zenith_lsn_of_block(RelFileLocator locator, ForkNumber forknum, BlockNumber block)
{
	return Max(get_bound(locator, forknum, block),
			   get_bound(locator, forknum, KEY_ALL_BLOCKS));
}

XLogRecPtr
zenith_lsn_of_size(RelFileLocator locator, ForkNumber forknum)
{
	return get_bound(locator, forknum, KEY_SIZE);
}

void
zenith_lsn_set_block(RelFileLocator locator, ForkNumber forknum,
					 BlockNumber block, XLogRecPtr lsn)
{
	set_bound(locator, forknum, block, lsn);
}

/* Upper bound of the records that zenith_lsn_set_writes() was told of. */
XLogRecPtr
zenith_lsn_of_writes(RelFileLocator locator)
{
	return get_bound(locator, MAIN_FORKNUM, KEY_WRITES);
}

/* A record that ends at lsn was logged since a page of the relation is being written. */
void
zenith_lsn_set_writes(RelFileLocator locator, XLogRecPtr lsn)
{
	set_bound(locator, MAIN_FORKNUM, KEY_WRITES, lsn);
}

void
zenith_lsn_set_size(RelFileLocator locator, ForkNumber forknum, XLogRecPtr lsn)
{
	set_bound(locator, forknum, KEY_SIZE, lsn);
}

/* Raise the bound of every block of a fork, also of those never mentioned. */
void
zenith_lsn_set_all_blocks(RelFileLocator locator, ForkNumber forknum, XLogRecPtr lsn)
{
	set_bound(locator, forknum, KEY_ALL_BLOCKS, lsn);
}

/* Raise the bound of everything: every read waits for this LSN from now on. */
void
zenith_lsn_raise_all(XLogRecPtr lsn)
{
	raise_slot(&bounds->floor, lsn);
}

/*
 * An LSN that every WAL record inserted so far ends at or before; on a standby
 * one that every record ends at or before whose changes can be seen.
 *
 * GetXLogInsertRecPtr() tells where the next record will start, which is
 * after a page header if the last one ended on a page boundary.  Nothing has
 * been written at that place and XLogFlush() would complain, so step back.
 */
XLogRecPtr
zenith_insert_position(void)
{
	XLogRecPtr	lsn;

	if (RecoveryInProgress())
		return zenith_replay_position();
	lsn = GetXLogInsertRecPtr();
	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		lsn -= SizeOfXLogLongPHD;
	else if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		lsn -= SizeOfXLogShortPHD;
	return lsn;
}

/* A checkpoint record, with the page header that it may run across */
#define MAX_CHECKPOINT_SIZE 160

/*
 * What a standby shows.  The checkpoint that it starts from changes no page,
 * and on a branch that hasn't been written to it is nowhere but here: so the
 * page server must not be asked to wait for it.
 */
static XLogRecPtr
not_at_start(XLogRecPtr lsn)
{
	return lsn <= zenith_start_lsn + MAX_CHECKPOINT_SIZE ? zenith_start_lsn : lsn;
}

XLogRecPtr
zenith_shown_lsn(void)
{
	return not_at_start(GetXLogReplayRecPtr(NULL));
}

/*
 * The end of the record that is being replayed, or of the last one if none is.
 * Everything that has been changed in memory was changed at or before it.
 */
XLogRecPtr
zenith_replay_position(void)
{
	return not_at_start(GetCurrentReplayRecPtr(NULL));
}

/*
 * The LSN to read at, given the bound of what is to be read.
 *
 * On a standby nothing newer than what has been replayed may be seen, except
 * for changes of the record that is being replayed; see standby.c.
 */
static XLogRecPtr
choose_lsn(XLogRecPtr *bound)
{
	if (!RecoveryInProgress())
		return PG_UINT64_MAX;
	if (zenith_mode == ZENITH_STATIC)
	{
		*bound = zenith_start_lsn;
		return zenith_start_lsn;
	}
	return Max(zenith_shown_lsn(), *bound);
}

/*
 * Which states of a run of blocks will do.  On a primary that is any state at
 * or after the newest change; the newest that the page server has is right, as
 * nobody else writes.  On a standby it must not be newer than what it shows.
 *
 * Visibility map blocks are special: their bits are cleared before the WAL
 * record that says so exists, so the bound can't be known when such a page is
 * dropped.  But whoever clears bits keeps the page pinned until the record has
 * been inserted, hence the insert position is a bound when the page is read.
 */
void
zenith_read_range(RelFileLocator locator, ForkNumber forknum,
				  BlockNumber first, int count,
				  XLogRecPtr *request_lsn, XLogRecPtr *not_modified_since)
{
	XLogRecPtr	bound = get_bound(locator, forknum, KEY_ALL_BLOCKS);

	if (forknum == VISIBILITYMAP_FORKNUM && !RecoveryInProgress())
		bound = zenith_insert_position();
	else
	{
		for (int i = 0; i < count; i++)
			bound = Max(bound, get_bound(locator, forknum, first + i));
	}
	if (forknum == VISIBILITYMAP_FORKNUM && zenith_mode == ZENITH_REPLICA && RecoveryInProgress())
		zenith_wait_for_replay(bound);
	*request_lsn = choose_lsn(&bound);
	*not_modified_since = bound;
}

void
zenith_size_range(RelFileLocator locator, ForkNumber forknum,
				  XLogRecPtr *request_lsn, XLogRecPtr *not_modified_since)
{
	*not_modified_since = zenith_lsn_of_size(locator, forknum);
	*request_lsn = choose_lsn(not_modified_since);
}

/* The page server can only get WAL that has left the WAL buffers. */
void
zenith_flush_for_read(XLogRecPtr lsn)
{
	if (!RecoveryInProgress() && XLogNeedsFlush(lsn))
		XLogFlush(lsn);
}
