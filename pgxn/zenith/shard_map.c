/*-------------------------------------------------------------------------
 *
 * shard_map.c
 *	  Where the page servers are, and which of them has a block.
 *
 * A tenant may be spread over several page servers: blocks of relations go to
 * shards by the relation's number and the stripe that the block is in.  All
 * else, sizes and init forks among it, is at shard 0.  libs/sharding.ts has
 * the same function; both are held to libs/sharding-vectors.json.
 *
 * zenith.pageserver_connstring has one connection string per shard, with
 * semicolons between them.  It is followed at a reload, so that a shard can
 * move; it decides about the number of shards, too.
 *
 * A backend follows its settings between statements only, and a parallel
 * worker resets them all and takes over those of its leader one by one, while
 * it already reads pages.  So nobody uses the settings of his own: the
 * postmaster puts the map into shared memory, and backends take it from there
 * before each request, in the middle of a statement that waits for a page
 * server which is no more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "storage/s_lock.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "zenith.h"

#define MAP_TEXT_SIZE	(16 * 1024)

/*
 * Written by the postmaster alone, which must not wait for locks.  Readers
 * copy it and look whether the version was even and has stayed the same.
 */
typedef struct SharedMap
{
	pg_atomic_uint32 version;
	int			stripe_blocks;
	char		text[MAP_TEXT_SIZE];
} SharedMap;

static SharedMap *shared_map = NULL;

static char *connstring_setting = NULL;
static int	stripe_blocks_setting = ZENITH_DEFAULT_STRIPE_BLOCKS;

/* This process' copy; the text is cut in pieces */
static char *map_text = NULL;
static const char *addresses[ZENITH_MAX_SHARDS];
static int	count = 0;
static int	stripe_blocks = ZENITH_DEFAULT_STRIPE_BLOCKS;
static uint32 version = 0;

static void
publish(const char *connstring, int stripe)
{
	if (shared_map == NULL || IsUnderPostmaster)
		return;
	pg_atomic_fetch_add_u32(&shared_map->version, 1);
	pg_write_barrier();
	strlcpy(shared_map->text, connstring, MAP_TEXT_SIZE);
	shared_map->stripe_blocks = stripe;
	pg_write_barrier();
	pg_atomic_fetch_add_u32(&shared_map->version, 1);
}

/* Has it changed since this process took it? */
bool
zenith_shard_map_changed(void)
{
	return pg_atomic_read_u32(&shared_map->version) != version;
}

/* Take over the map if it has changed; true if it has. */
bool
zenith_shard_map_follow(void)
{
	uint32		newest;
	int			stripe;

	if (!zenith_shard_map_changed())
		return false;
	if (map_text == NULL)
		map_text = MemoryContextAlloc(TopMemoryContext, MAP_TEXT_SIZE);
	for (;;)
	{
		newest = pg_atomic_read_u32(&shared_map->version);
		pg_read_barrier();
		memcpy(map_text, shared_map->text, MAP_TEXT_SIZE);
		stripe = shared_map->stripe_blocks;
		pg_read_barrier();
		if (newest % 2 == 0 && newest == pg_atomic_read_u32(&shared_map->version))
			break;
		SPIN_DELAY();
	}
	version = newest;
	stripe_blocks = stripe;
	count = 0;
	for (char *at = map_text; at != NULL;)
	{
		char	   *end = strchr(at, ';');

		if (end)
			*end++ = '\0';
		addresses[count++] = at;
		at = end;
	}
	return true;
}

static inline void
ensure_map(void)
{
	if (unlikely(count == 0))
		zenith_shard_map_follow();
}

static bool
check_connstring(char **newval, void **extra, GucSource source)
{
	int			pieces = 1;

	for (const char *at = *newval; *at; at++)
		pieces += *at == ';';
	if (pieces > ZENITH_MAX_SHARDS || strlen(*newval) >= MAP_TEXT_SIZE)
	{
		GUC_check_errdetail("There can be %d page servers at most, in %d bytes.",
							ZENITH_MAX_SHARDS, MAP_TEXT_SIZE - 1);
		return false;
	}
	return true;
}

static void
assign_connstring(const char *newval, void *extra)
{
	publish(newval, stripe_blocks_setting);
}

static void
assign_stripe(int newval, void *extra)
{
	if (connstring_setting)
		publish(connstring_setting, newval);
}

Size
zenith_shard_map_shmem_size(void)
{
	return MAXALIGN(sizeof(SharedMap));
}

void
zenith_shard_map_shmem_init(void)
{
	bool		found;

	shared_map = ShmemInitStruct("zenith shard map", zenith_shard_map_shmem_size(), &found);
	if (found)
		return;
	/* version 0 is for processes that have none yet */
	pg_atomic_init_u32(&shared_map->version, 2);
	strlcpy(shared_map->text, connstring_setting, MAP_TEXT_SIZE);
	shared_map->stripe_blocks = stripe_blocks_setting;
}

void
zenith_define_shard_settings(void)
{
	DefineCustomStringVariable("zenith.pageserver_connstring",
							   "How to connect to the page server, or to the page servers of all shards.",
							   "A libpq connection string, or several of them with semicolons in between. If it is empty when the server starts, all relations are kept in local files.",
							   &connstring_setting,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_connstring, assign_connstring, NULL);
	DefineCustomIntVariable("zenith.shard_stripe_blocks",
							"Blocks of a relation that stay together in one shard.",
							"A property of the tenant: with another value blocks are asked of the wrong page server.",
							&stripe_blocks_setting,
							ZENITH_DEFAULT_STRIPE_BLOCKS, 1, ZENITH_MAX_STRIPE_BLOCKS,
							PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							NULL, assign_stripe, NULL);
}

/* Is there a page server at all? */
bool
zenith_has_pageserver(void)
{
	return connstring_setting[0] != '\0';
}

/* Shards of the tenant; 1 if it isn't sharded. */
int
zenith_shard_count(void)
{
	ensure_map();
	return count;
}

/* Connection string of a shard's page server. */
const char *
zenith_shard_connstring(int shard)
{
	Assert(shard >= 0 && shard < count);
	return addresses[shard];
}

/*
 * Name of a shard as the page server has it: the tenant's, and if it is
 * sharded "-", the shard and the count in two hexadecimal digits each.
 */
void
zenith_shard_name(int shard, char *name, Size size)
{
	if (count == 1)
		strlcpy(name, zenith_tenant_id, size);
	else
		snprintf(name, size, "%s-%02x%02x", zenith_tenant_id, shard, count);
}

/* The function itself, for any map. */
int
zenith_shard_of_stripe(RelFileNumber rel, uint32 stripe, int shards)
{
	return murmurhash32(murmurhash32(rel) ^ stripe) % (uint32) shards;
}

/* The shard that has a block. */
int
zenith_shard_of_block(RelFileLocator locator, ForkNumber forknum, BlockNumber block)
{
	ensure_map();
	if (count == 1 || forknum == INIT_FORKNUM)
		return 0;
	return zenith_shard_of_stripe(locator.relNumber, block / stripe_blocks, count);
}

/*
 * How many blocks from this one on are in one shard for sure.  Of a tenant in
 * one piece, too: it may be split while the request is made, and then stripes
 * are multiples of the default one.
 */
BlockNumber
zenith_shard_run(ForkNumber forknum, BlockNumber block)
{
	ensure_map();
	if (forknum == INIT_FORKNUM)
		return InvalidBlockNumber;
	return stripe_blocks - block % stripe_blocks;
}
