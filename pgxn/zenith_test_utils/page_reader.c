/*
 * page_reader.c
 *		Pages from the page server, past all caches, through the library zenith.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"

#include "page_reader.h"

typedef void (*read_pages_type) (RelFileLocator locator, ForkNumber forknum, BlockNumber first,
								 int count, XLogRecPtr request_lsn,
								 XLogRecPtr not_modified_since, char *pages);
typedef XLogRecPtr (*insert_position_type) (void);
typedef int (*shard_of_type) (RelFileNumber rel, uint32 stripe, int shards);

/* Reads a run of at most 64 blocks; an LSN of all ones means the newest state. */
void
zenith_read_pages_at(RelFileLocator locator, ForkNumber forknum, BlockNumber first, int count,
					 XLogRecPtr request_lsn, XLogRecPtr not_modified_since, char *pages)
{
	static read_pages_type read_pages = NULL;

	if (read_pages == NULL)
		read_pages = (read_pages_type) load_external_function("$libdir/zenith",
															  "zenith_read_pages_at_lsn",
															  true, NULL);
	read_pages(locator, forknum, first, count, request_lsn, not_modified_since, pages);
}

/* The pages with every WAL record applied that has been inserted by now. */
void
zenith_read_newest_pages(RelFileLocator locator, ForkNumber forknum, BlockNumber first, int count,
						 char *pages)
{
	static insert_position_type insert_position = NULL;
	XLogRecPtr	lsn;

	if (insert_position == NULL)
		insert_position = (insert_position_type) load_external_function("$libdir/zenith",
																		"zenith_insert_position",
																		true, NULL);
	lsn = insert_position();
	XLogFlush(lsn);
	zenith_read_pages_at(locator, forknum, first, count, PG_UINT64_MAX, lsn, pages);
}

/* The shard that a stripe of a relation belongs to, as computes reckon it. */
int
zenith_shard_of(RelFileNumber rel, uint32 stripe, int shards)
{
	static shard_of_type shard_of = NULL;

	if (shard_of == NULL)
		shard_of = (shard_of_type) load_external_function("$libdir/zenith",
														  "zenith_shard_of_stripe", true, NULL);
	return shard_of(rel, stripe, shards);
}
