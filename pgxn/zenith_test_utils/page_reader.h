/*
 * page_reader.h
 *		Pages from the page server, past all caches.  See page_reader.c.
 */
#ifndef PAGE_READER_H
#define PAGE_READER_H

#include "access/xlogdefs.h"
#include "common/relpath.h"
#include "storage/block.h"
#include "storage/relfilelocator.h"

extern void zenith_read_pages_at(RelFileLocator locator, ForkNumber forknum, BlockNumber first,
								 int count, XLogRecPtr request_lsn, XLogRecPtr not_modified_since,
								 char *pages);
extern void zenith_read_newest_pages(RelFileLocator locator, ForkNumber forknum,
									 BlockNumber first, int count, char *pages);

extern int	zenith_shard_of(RelFileNumber rel, uint32 stripe, int shards);

#endif							/* PAGE_READER_H */
