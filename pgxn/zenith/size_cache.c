/*-------------------------------------------------------------------------
 *
 * size_cache.c
 *	  Sizes of relation forks, shared by all backends.
 *
 * Postgres asks for sizes all the time, also for those of forks that don't
 * exist.  The cache is a fixed array of sets of eight entries; a full set
 * drops the entry that was used least recently.  Dropping is always safe: when
 * a relation grows, WAL that tells the page server so is written, and its LSN
 * is remembered (zenith_lsn_set_size), so a later question gets an answer that
 * is new enough.  Fixed sets also mean that nothing is ever allocated, which
 * lets truncation change a size within its critical section.
 *
 * A size that was asked of the page server may be outdated when it arrives.
 * It is stored only if the fork has got no entry meanwhile and if no entry of
 * the same partition has been removed meanwhile; see zenith_size_load_end().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/pg_bitutils.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "zenith.h"

#define SET_WAYS 8

typedef struct SizeKey
{
	RelFileLocator locator;
	ForkNumber	forknum;
} SizeKey;

typedef struct SizeEntry
{
	SizeKey		key;
	BlockNumber nblocks;		/* InvalidBlockNumber = the fork is absent */
	bool		used;
	bool		created;		/* since its creation nothing was added */
	pg_atomic_uint32 last_use;
} SizeEntry;

typedef struct SizePartition
{
	uint64		removals;		/* entries removed so far */
	pg_atomic_uint32 clock;
} SizePartition;

typedef struct SizeCache
{
	SizePartition partitions[ZENITH_SIZE_LOCKS];
	SizeEntry	entries[FLEXIBLE_ARRAY_MEMBER];
} SizeCache;

static SizeCache *cache = NULL;
static LWLockPadded *locks = NULL;
static uint32 set_mask = 0;

static uint32
set_count(void)
{
	return Max(pg_nextpower2_32(zenith_size_cache_entries) / SET_WAYS, ZENITH_SIZE_LOCKS);
}

Size
zenith_size_shmem_size(void)
{
	return add_size(offsetof(SizeCache, entries),
					mul_size(set_count(), SET_WAYS * sizeof(SizeEntry)));
}

void
zenith_size_shmem_init(void)
{
	bool		found;

	cache = ShmemInitStruct("zenith relation sizes", zenith_size_shmem_size(), &found);
	locks = GetNamedLWLockTranche("ZenithRelationSize");
	set_mask = set_count() - 1;
	if (!found)
	{
		memset(cache, 0, zenith_size_shmem_size());
		for (int i = 0; i < ZENITH_SIZE_LOCKS; i++)
			pg_atomic_init_u32(&cache->partitions[i].clock, 0);
		for (uint32 i = 0; i < set_count() * SET_WAYS; i++)
			pg_atomic_init_u32(&cache->entries[i].last_use, 0);
	}
}

static inline uint32
find_set(const SizeKey *key)
{
	return hash_bytes((const unsigned char *) key, sizeof(SizeKey)) & set_mask;
}

static inline SizePartition *
partition_of(uint32 set)
{
	return &cache->partitions[set % ZENITH_SIZE_LOCKS];
}

static inline LWLock *
lock_of(uint32 set)
{
	return &locks[set % ZENITH_SIZE_LOCKS].lock;
}

static SizeEntry *
find_entry(uint32 set, const SizeKey *key)
{
	SizeEntry  *entries = &cache->entries[set * SET_WAYS];

	for (int i = 0; i < SET_WAYS; i++)
	{
		if (entries[i].used && memcmp(&entries[i].key, key, sizeof(SizeKey)) == 0)
			return &entries[i];
	}
	return NULL;
}

static inline void
touch(uint32 set, SizeEntry *entry)
{
	pg_atomic_write_u32(&entry->last_use,
						pg_atomic_fetch_add_u32(&partition_of(set)->clock, 1));
}

static void
remove_entry(uint32 set, SizeEntry *entry)
{
	/*
	 * The record that logs a creation is written after the creation, so its
	 * LSN could not be remembered then.
	 */
	if (entry->created)
		zenith_lsn_set_size(entry->key.locator, entry->key.forknum, zenith_insert_position());
	entry->used = false;
	partition_of(set)->removals++;
}

/* Find the entry of a key, or make room for it.  Needs the exclusive lock. */
static SizeEntry *
enter(uint32 set, const SizeKey *key, bool *found)
{
	SizeEntry  *entries = &cache->entries[set * SET_WAYS];
	SizeEntry  *entry = find_entry(set, key);
	uint32		now;

	*found = (entry != NULL);
	if (entry)
		return entry;

	now = pg_atomic_read_u32(&partition_of(set)->clock);
	for (int i = 0; i < SET_WAYS; i++)
	{
		if (!entries[i].used)
		{
			entry = &entries[i];
			break;
		}
		if (entry == NULL ||
			now - pg_atomic_read_u32(&entries[i].last_use) >
			now - pg_atomic_read_u32(&entry->last_use))
			entry = &entries[i];
	}
	if (entry->used)
		remove_entry(set, entry);
	entry->used = true;
	entry->key = *key;
	entry->created = false;
	entry->nblocks = InvalidBlockNumber;
	return entry;
}

/*
 * The size of a fork, InvalidBlockNumber if it is known not to exist.  Returns
 * false if nothing is known.
 */
bool
zenith_size_lookup(RelFileLocator locator, ForkNumber forknum, BlockNumber *nblocks)
{
	SizeKey		key = {locator, forknum};
	uint32		set = find_set(&key);
	SizeEntry  *entry;

	LWLockAcquire(lock_of(set), LW_SHARED);
	entry = find_entry(set, &key);
	if (entry)
	{
		*nblocks = entry->nblocks;
		touch(set, entry);
	}
	LWLockRelease(lock_of(set));
	return entry != NULL;
}

/* To be called before the page server is asked for a size. */
uint64
zenith_size_load_begin(RelFileLocator locator, ForkNumber forknum)
{
	SizeKey		key = {locator, forknum};
	uint32		set = find_set(&key);
	uint64		version;

	LWLockAcquire(lock_of(set), LW_SHARED);
	version = partition_of(set)->removals;
	LWLockRelease(lock_of(set));
	return version;
}

/*
 * Remember the answer of the page server.  If there is an entry by now, the
 * entry is newer.  If one has been removed since zenith_size_load_begin() it
 * may have been a newer one for this fork, so don't remember the answer.
 */
void
zenith_size_load_end(RelFileLocator locator, ForkNumber forknum,
					 BlockNumber nblocks, uint64 version)
{
	SizeKey		key = {locator, forknum};
	uint32		set = find_set(&key);
	bool		found;

	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	if (partition_of(set)->removals == version)
	{
		SizeEntry  *entry = enter(set, &key, &found);

		if (!found)
		{
			entry->nblocks = nblocks;
			touch(set, entry);
		}
	}
	LWLockRelease(lock_of(set));
}

/* The fork has just been created (0 blocks) or truncated. */
void
zenith_size_set(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks)
{
	SizeKey		key = {locator, forknum};
	uint32		set = find_set(&key);
	SizeEntry  *entry;
	bool		found;

	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	entry = enter(set, &key, &found);
	entry->nblocks = nblocks;
	entry->created = (nblocks == 0);
	/* An answer that is under way is older than this */
	partition_of(set)->removals++;
	touch(set, entry);
	LWLockRelease(lock_of(set));
}

/* The fork has been extended. */
void
zenith_size_grow(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks)
{
	SizeKey		key = {locator, forknum};
	uint32		set = find_set(&key);
	SizeEntry  *entry;
	bool		found;

	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	entry = enter(set, &key, &found);
	if (!found || entry->nblocks == InvalidBlockNumber || entry->nblocks < nblocks)
		entry->nblocks = nblocks;
	entry->created = false;
	touch(set, entry);
	LWLockRelease(lock_of(set));
}

/* The fork has so many blocks at least; what isn't known stays unknown. */
void
zenith_size_raise(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks)
{
	BlockNumber known;

	if (zenith_size_lookup(locator, forknum, &known) &&
		(known == InvalidBlockNumber || known < nblocks))
		zenith_size_grow(locator, forknum, nblocks);
}

void
zenith_size_forget(RelFileLocator locator, ForkNumber forknum)
{
	SizeKey		key = {locator, forknum};
	uint32		set = find_set(&key);
	SizeEntry  *entry;

	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	entry = find_entry(set, &key);
	if (entry)
	{
		entry->created = false;
		remove_entry(set, entry);
	}
	LWLockRelease(lock_of(set));
}

/*
 * Forget all forks of a database.  What the page server is asked next must be
 * bounded by zenith_lsn_raise_all().
 */
void
zenith_size_forget_database(Oid dbOid)
{
	for (uint32 set = 0; set <= set_mask; set++)
	{
		SizeEntry  *entries = &cache->entries[set * SET_WAYS];

		LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
		for (int i = 0; i < SET_WAYS; i++)
		{
			if (entries[i].used && entries[i].key.locator.dbOid == dbOid)
			{
				entries[i].created = false;
				remove_entry(set, &entries[i]);
			}
		}
		LWLockRelease(lock_of(set));
	}
}

/* How many entries are in use; without locks, so only about right. */
bool
zenith_size_usage(uint64 *used, uint64 *capacity)
{
	if (cache == NULL)
		return false;
	*used = 0;
	*capacity = ((uint64) set_mask + 1) * SET_WAYS;
	for (uint64 i = 0; i < *capacity; i++)
		*used += cache->entries[i].used ? 1 : 0;
	return true;
}
