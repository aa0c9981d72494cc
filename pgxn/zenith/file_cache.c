/*-------------------------------------------------------------------------
 *
 * file_cache.c
 *	  Pages in a local file, to save requests to the page server.
 *
 * A second cache below the buffer pool, off unless zenith.file_cache_size is
 * set.  The file has a fixed number of places; a block may be in any of the
 * eight places of its set, and takes that which was used least recently.  What
 * is where is known in shared memory only, so the cache is empty after a start.
 *
 * A page in the file is always the newest version, because
 *
 *	- whoever writes a dirty page puts it here, over the old version, after
 *	  raising the block's last-written LSN
 *	- a page that came from the page server is put here only if the block isn't
 *	  here yet, and if its last-written LSN isn't beyond the LSN of the reply;
 *	  so readers that bypass the buffer pool do no harm
 *	- when a relation grows, its new blocks are thrown out of here.  Blocks cut
 *	  off by a truncation can't be read until then.
 *	- a standby throws out a block when it doesn't replay a change of it
 *
 * A partition's lock is held while a page is read or written.  The file is in
 * the kernel's cache most of the time, so this is a matter of microseconds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog.h"
#include "common/file_perm.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "zenith.h"

#define CACHE_FILE	"pg_zenith_cache"
#define SET_WAYS	8

typedef struct CacheKey
{
	RelFileLocator locator;
	ForkNumber	forknum;
	BlockNumber block;
} CacheKey;

typedef struct CacheEntry
{
	CacheKey	key;
	bool		valid;
	pg_atomic_uint32 last_use;
} CacheEntry;

typedef struct FileCache
{
	pg_atomic_uint32 broken;	/* a write failed: never used again */
	pg_atomic_uint32 clock;
	CacheEntry	entries[FLEXIBLE_ARRAY_MEMBER];
} FileCache;

static FileCache *cache = NULL;
static LWLockPadded *locks = NULL;
static uint32 set_count = 0;
static int	cache_fd = -1;

/* Sets are a whole multiple of the locks; 0 if the cache is off. */
static uint32
configured_sets(void)
{
	uint64		places = (uint64) zenith_file_cache_mb * (1024 * 1024 / BLCKSZ);

	return (uint32) (places / (SET_WAYS * ZENITH_FILE_CACHE_LOCKS)) * ZENITH_FILE_CACHE_LOCKS;
}

Size
zenith_file_cache_shmem_size(void)
{
	return add_size(offsetof(FileCache, entries),
					mul_size(mul_size(configured_sets(), SET_WAYS), sizeof(CacheEntry)));
}

void
zenith_file_cache_shmem_init(void)
{
	bool		found;
	int			fd;

	cache = ShmemInitStruct("zenith file cache", zenith_file_cache_shmem_size(), &found);
	locks = GetNamedLWLockTranche("ZenithFileCache");
	set_count = configured_sets();
	if (found)
		return;

	memset(cache, 0, zenith_file_cache_shmem_size());
	pg_atomic_init_u32(&cache->broken, 0);
	pg_atomic_init_u32(&cache->clock, 0);
	for (uint64 i = 0; i < (uint64) set_count * SET_WAYS; i++)
		pg_atomic_init_u32(&cache->entries[i].last_use, 0);

	unlink(CACHE_FILE);
	if (set_count == 0)
		return;
	fd = open(CACHE_FILE, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY, pg_file_create_mode);
	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", CACHE_FILE)));
	close(fd);
}

/* Is the cache there, for this process? */
static bool
usable(void)
{
	if (set_count == 0 || pg_atomic_read_u32(&cache->broken) != 0)
		return false;
	if (cache_fd < 0)
	{
		ReserveExternalFD();
		cache_fd = BasicOpenFile(CACHE_FILE, O_RDWR | PG_BINARY);
		if (cache_fd < 0)
		{
			ReleaseExternalFD();
			return false;
		}
	}
	return true;
}

/*
 * A process that can't open the file may still read what others put there, so
 * everybody has to stop using it.
 */
static void
give_up(const char *action)
{
	if (pg_atomic_exchange_u32(&cache->broken, 1) == 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not %s file \"%s\", so it is not used any more: %m",
						action, CACHE_FILE)));
}

static uint32
find_set(const CacheKey *key)
{
	return hash_bytes((const unsigned char *) key, sizeof(CacheKey)) % set_count;
}

static LWLock *
lock_of(uint32 set)
{
	return &locks[set % ZENITH_FILE_CACHE_LOCKS].lock;
}

static CacheEntry *
find_entry(uint32 set, const CacheKey *key)
{
	CacheEntry *entries = &cache->entries[(uint64) set * SET_WAYS];

	for (int i = 0; i < SET_WAYS; i++)
	{
		if (entries[i].valid && memcmp(&entries[i].key, key, sizeof(CacheKey)) == 0)
			return &entries[i];
	}
	return NULL;
}

static CacheEntry *
find_victim(uint32 set)
{
	CacheEntry *entries = &cache->entries[(uint64) set * SET_WAYS];
	CacheEntry *victim = &entries[0];
	uint32		now = pg_atomic_read_u32(&cache->clock);

	for (int i = 0; i < SET_WAYS; i++)
	{
		if (!entries[i].valid)
			return &entries[i];
		if (now - pg_atomic_read_u32(&entries[i].last_use) >
			now - pg_atomic_read_u32(&victim->last_use))
			victim = &entries[i];
	}
	return victim;
}

static void
touch(CacheEntry *entry)
{
	pg_atomic_write_u32(&entry->last_use, pg_atomic_fetch_add_u32(&cache->clock, 1));
}

static off_t
place_of(const CacheEntry *entry)
{
	return (off_t) (entry - cache->entries) * BLCKSZ;
}

static bool
store(CacheEntry *entry, const CacheKey *key, const char *page)
{
	entry->valid = false;
	errno = 0;
	if (pg_pwrite(cache_fd, page, BLCKSZ, place_of(entry)) != BLCKSZ)
	{
		if (errno == 0)
			errno = ENOSPC;
		return false;
	}
	entry->key = *key;
	entry->valid = true;
	touch(entry);
	return true;
}

bool
zenith_file_cache_has(RelFileLocator locator, ForkNumber forknum, BlockNumber block)
{
	CacheKey	key = {locator, forknum, block};
	uint32		set;
	bool		found;

	if (!usable())
		return false;
	set = find_set(&key);
	LWLockAcquire(lock_of(set), LW_SHARED);
	found = find_entry(set, &key) != NULL;
	LWLockRelease(lock_of(set));
	return found;
}

/* Read a page; false if it isn't here. */
bool
zenith_file_cache_read(RelFileLocator locator, ForkNumber forknum,
					   BlockNumber block, char *page)
{
	CacheKey	key = {locator, forknum, block};
	CacheEntry *entry;
	uint32		set;
	bool		found = false;
	bool		failed = false;

	if (!usable())
		return false;
	set = find_set(&key);
	LWLockAcquire(lock_of(set), LW_SHARED);
	entry = find_entry(set, &key);
	if (entry)
	{
		found = pg_pread(cache_fd, page, BLCKSZ, place_of(entry)) == BLCKSZ;
		failed = !found;
		touch(entry);
	}
	LWLockRelease(lock_of(set));
	if (failed)
		give_up("read");
	zenith_count(found ? ZENITH_FILE_CACHE_HITS : ZENITH_FILE_CACHE_MISSES, 1);
	return found;
}

/* A dirty page leaves the buffer pool: this is its newest version. */
void
zenith_file_cache_put(RelFileLocator locator, ForkNumber forknum,
					  BlockNumber block, const char *page)
{
	CacheKey	key = {locator, forknum, block};
	CacheEntry *entry;
	uint32		set;
	bool		stored;

	if (set_count == 0)
		return;
	/* What can't be replaced by the new version must at least be gone */
	if (!usable())
	{
		zenith_file_cache_forget(locator, forknum, block, 1);
		return;
	}
	set = find_set(&key);
	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	entry = find_entry(set, &key);
	stored = store(entry ? entry : find_victim(set), &key, page);
	LWLockRelease(lock_of(set));
	if (!stored)
		give_up("write");
	zenith_count(ZENITH_FILE_CACHE_WRITES, 1);
}

/* A page has come from the page server, which read it at an LSN. */
void
zenith_file_cache_put_read(RelFileLocator locator, ForkNumber forknum,
						   BlockNumber block, const char *page, XLogRecPtr lsn)
{
	CacheKey	key = {locator, forknum, block};
	uint32		set;
	bool		stored = true;

	if (!usable())
		return;
	set = find_set(&key);
	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	if (find_entry(set, &key) == NULL && zenith_lsn_of_block(locator, forknum, block) <= lsn)
		stored = store(find_victim(set), &key, page);
	LWLockRelease(lock_of(set));
	if (!stored)
		give_up("write");
	zenith_count(ZENITH_FILE_CACHE_WRITES, 1);
}

/* Blocks are new, or their content isn't worth keeping. */
void
zenith_file_cache_forget(RelFileLocator locator, ForkNumber forknum,
						 BlockNumber first, BlockNumber count)
{
	if (set_count == 0)
		return;
	for (BlockNumber i = 0; i < count; i++)
	{
		CacheKey	key = {locator, forknum, first + i};
		uint32		set = find_set(&key);
		CacheEntry *entry;

		/* a standby asks this for every block that it doesn't replay */
		LWLockAcquire(lock_of(set), LW_SHARED);
		entry = find_entry(set, &key);
		LWLockRelease(lock_of(set));
		if (entry == NULL)
			continue;
		LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
		entry = find_entry(set, &key);
		if (entry)
			entry->valid = false;
		LWLockRelease(lock_of(set));
	}
}

/* Nothing of the database is where it was. */
void
zenith_file_cache_forget_database(Oid dbOid)
{
	for (uint32 set = 0; set < set_count; set++)
	{
		CacheEntry *entries = &cache->entries[(uint64) set * SET_WAYS];

		LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
		for (int i = 0; i < SET_WAYS; i++)
		{
			if (entries[i].valid && entries[i].key.locator.dbOid == dbOid)
				entries[i].valid = false;
		}
		LWLockRelease(lock_of(set));
	}
}

/* How many pages it holds; without locks, so only about right. */
bool
zenith_file_cache_usage(uint64 *used, uint64 *capacity)
{
	if (cache == NULL)
		return false;
	*used = 0;
	*capacity = (uint64) set_count * SET_WAYS;
	for (uint64 i = 0; i < *capacity; i++)
		*used += cache->entries[i].valid ? 1 : 0;
	return true;
}
