/*-------------------------------------------------------------------------
 *
 * links.c
 *	  The connections of a backend, one per shard of its tenant.
 *
 * Each is made when it is first needed.  They follow the shard map
 * (shard_map.c), which may change in the middle of a query.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "link.h"

static ZenithLink *links = NULL;
static int	link_count = 0;

/*
 * Follow the shard map: connections to page servers that are not in it any
 * more end.
 */
void
zenith_links_follow(void)
{
	int			count;

	if (!zenith_shard_map_follow() && links != NULL)
		return;
	count = zenith_shard_count();
	for (int i = 0; i < link_count; i++)
	{
		ZenithLink *link = &links[i];

		/* with another number of shards every name is another one */
		if (count == link_count && strcmp(link->connstring, zenith_shard_connstring(i)) == 0)
			continue;
		zenith_link_close(link);
	}
	if (count != link_count)
	{
		ZenithLink *grown = MemoryContextAllocZero(TopMemoryContext, count * sizeof(ZenithLink));

		for (int i = 0; i < count; i++)
		{
			grown[i].shard = i;
			grown[i].shard_count = count;
			grown[i].next_request_id = i < link_count ? links[i].next_request_id : 1;
			grown[i].next_reply_id = grown[i].next_request_id;
			grown[i].connstring = i < link_count ? links[i].connstring : NULL;
		}
		for (int i = count; i < link_count; i++)
			pfree(links[i].connstring);
		if (links)
			pfree(links);
		links = grown;
		link_count = count;
	}
	for (int i = 0; i < count; i++)
	{
		char	   *copy = MemoryContextStrdup(TopMemoryContext, zenith_shard_connstring(i));

		if (links[i].connstring)
			pfree(links[i].connstring);
		links[i].connstring = copy;
	}
}

/* Where a request goes: blocks to their shard, all else to shard 0.  NULL before the first call. */
ZenithLink *
zenith_links_find(const ZenithRequest *request)
{
	if (links == NULL)
		return NULL;
	if (request->tag != 'G')
		return &links[0];
	return &links[zenith_shard_of_block(request->locator, request->forknum, request->block)];
}

/* NULL if the map has no such shard any more. */
ZenithLink *
zenith_links_of_shard(int shard)
{
	return shard < link_count ? &links[shard] : NULL;
}

/*
 * Send what has been queued for other shards than the one that is waited for;
 * a connection that breaks is made anew when somebody needs it.
 */
void
zenith_links_flush(const ZenithLink *but)
{
	for (int i = 0; i < link_count; i++)
	{
		ZenithLink *link = &links[i];

		if (link != but && link->connection && !zenith_link_flush(link))
			zenith_link_close(link);
	}
}

/* The process ends. */
void
zenith_links_close(void)
{
	for (int i = 0; i < link_count; i++)
		zenith_link_close(&links[i]);
}
