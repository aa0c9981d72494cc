/*-------------------------------------------------------------------------
 *
 * readahead.c
 *	  Pages asked for before they are needed.
 *
 * Each backend has a ring of private pages.  A run of pages is requested
 * either because Postgres says that it will need them (smgrprefetch), or
 * because reads continue where earlier reads ended: sequential scans, vacuum,
 * index builds and scans of clustered ranges, none of which announce their
 * reads in this version.  The window doubles while the reads go on.
 *
 * A page may change between its arrival and its use.  The reply carries the
 * LSN of the state it was read from, so the page is good if the block's
 * last-written LSN isn't beyond that when the page is used; at that moment the
 * buffer manager allows nobody else to bring the block in or to write it.
 *
 * The ring is used first in, first out: room is made by giving up the oldest
 * pages, and if their replies are still to come there is no room.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "zenith.h"

typedef enum SlotState
{
	SLOT_DEAD,					/* used, overtaken or failed */
	SLOT_IN_FLIGHT,				/* requested */
	SLOT_READY,
} SlotState;

typedef struct Slot
{
	RelFileLocator locator;
	ForkNumber	forknum;
	BlockNumber block;
	SlotState	state;
	int			shard;
	uint64		request_id;
	XLogRecPtr	lsn;
} Slot;

/* A run of slots that one reply will fill; all of them are of one shard */
typedef struct Request
{
	int			shard;
	bool		done;			/* answered, or never will be */
	uint64		id;
	uint32		first;
	uint32		count;
} Request;

/*
 * Reads that continue each other.  A parallel scan reads runs of some length
 * and leaves out what other processes read, so the length of the last run says
 * how far it is worth reading ahead.
 */
typedef struct Stream
{
	RelFileLocator locator;
	ForkNumber	forknum;
	bool		used;
	BlockNumber run_start;
	BlockNumber next;			/* where the next read will start */
	BlockNumber ahead;			/* blocks before this one have been requested */
	BlockNumber usual_run;		/* blocks until reads jumped; 0 = never did */
	uint64		last_use;
} Stream;

#define STREAM_COUNT		8
#define MAX_JUMP			4096
#define MAX_AHEAD_REQUEST	32
#define MAX_UNSENT			8

static uint32 capacity = 0;		/* a power of two; 0 = not set up */
static Slot *slots = NULL;
static char *pages = NULL;
static Request *requests = NULL;

/* Counters that only grow; their remainder by capacity is the position */
static uint32 slot_head = 0;
static uint32 slot_tail = 0;
static uint32 request_head = 0;
static uint32 request_tail = 0;

/* From the hash of a block to its slot + 1; overwritten when they clash */
static uint32 *directory = NULL;

static Stream streams[STREAM_COUNT];
static uint64 stream_clock = 0;

static inline Slot *
slot_at(uint32 n)
{
	return &slots[n & (capacity - 1)];
}

static inline char *
page_at(uint32 n)
{
	return pages + (Size) (n & (capacity - 1)) * BLCKSZ;
}

static bool
set_up(void)
{
	uint32		n;

	if (capacity > 0)
		return true;
	if (zenith_readahead_pages <= 0)
		return false;

	n = pg_prevpower2_32(zenith_readahead_pages);
	slots = MemoryContextAllocZero(TopMemoryContext, n * sizeof(Slot));
	requests = MemoryContextAllocZero(TopMemoryContext, n * sizeof(Request));
	directory = MemoryContextAllocZero(TopMemoryContext, 4 * n * sizeof(uint32));
	/* untouched pages of it cost nothing */
	pages = MemoryContextAlloc(TopMemoryContext, (Size) n * BLCKSZ);
	capacity = n;
	return true;
}

static uint32 *
directory_entry(RelFileLocator locator, ForkNumber forknum, BlockNumber block)
{
	uint32		hash = murmurhash32(locator.relNumber ^ murmurhash32(block + (uint32) forknum * 0x9e3779b9));

	return &directory[hash & (4 * capacity - 1)];
}

/* The slot of a block that is requested or here, else NULL. */
static Slot *
find_slot(RelFileLocator locator, ForkNumber forknum, BlockNumber block, uint32 *number)
{
	uint32		entry;
	Slot	   *slot;

	if (capacity == 0)
		return NULL;
	entry = *directory_entry(locator, forknum, block);
	if (entry == 0)
		return NULL;
	slot = &slots[entry - 1];
	if (slot->state == SLOT_DEAD || slot->block != block || slot->forknum != forknum ||
		!RelFileLocatorEquals(slot->locator, locator))
		return NULL;
	*number = entry - 1;
	return slot;
}

/* Make room for some slots by giving up the oldest. */
static bool
make_room(uint32 count)
{
	while (slot_head - slot_tail + count > capacity)
	{
		Slot	   *slot = slot_at(slot_tail);

		if (slot->state == SLOT_IN_FLIGHT)
			return false;
		if (slot->state == SLOT_READY)
			zenith_count(ZENITH_READAHEAD_WASTED, 1);
		slot->state = SLOT_DEAD;
		slot_tail++;
	}
	return true;
}

bool
zenith_readahead_has(RelFileLocator locator, ForkNumber forknum, BlockNumber block)
{
	uint32		number;

	return find_slot(locator, forknum, block, &number) != NULL;
}

/*
 * Ask for a run of blocks ahead of their use.  Does as much of it as there is
 * room for, and nothing for blocks whose newest WAL hasn't been flushed: the
 * page server would have to wait for it, and all later replies with it.
 */
void
zenith_readahead_submit(RelFileLocator locator, ForkNumber forknum,
						BlockNumber first, int count)
{
	/* The bound of map pages is known only when they are read */
	if (forknum == VISIBILITYMAP_FORKNUM || !set_up())
		return;

	while (count > 0)
	{
		ZenithRequest request = {.tag = 'G',.locator = locator,.forknum = forknum,.block = first};
		Request    *entry;
		int			run = Min(count, MAX_AHEAD_REQUEST);

		run = Min(run, (int) capacity / 2);
		run = Min((BlockNumber) run, zenith_shard_run(forknum, first));
		if (zenith_readahead_has(locator, forknum, first) ||
			zenith_file_cache_has(locator, forknum, first))
		{
			first++;
			count--;
			continue;
		}
		for (int i = 1; i < run; i++)
		{
			if (zenith_readahead_has(locator, forknum, first + i) ||
				zenith_file_cache_has(locator, forknum, first + i))
				run = i;
		}
		zenith_read_range(locator, forknum, first, run,
						  &request.request_lsn, &request.not_modified_since);
		if (!RecoveryInProgress() && request.not_modified_since > GetFlushRecPtr(NULL))
			return;
		if (request_head - request_tail >= capacity || !make_room(run))
			return;

		request.count = run;
		entry = &requests[request_head & (capacity - 1)];
		entry->shard = zenith_shard_of_block(locator, forknum, first);
		entry->done = false;
		entry->first = slot_head;
		entry->count = run;
		entry->id = zenith_pageserver_send_ahead(&request);
		if (entry->id == 0)
			return;
		request_head++;
		for (int i = 0; i < run; i++)
		{
			Slot	   *slot = slot_at(slot_head);

			slot->locator = locator;
			slot->forknum = forknum;
			slot->block = first + i;
			slot->state = SLOT_IN_FLIGHT;
			slot->shard = entry->shard;
			slot->request_id = entry->id;
			*directory_entry(locator, forknum, first + i) = (slot_head & (capacity - 1)) + 1;
			slot_head++;
		}
		zenith_count(ZENITH_READAHEAD_BLOCKS, run);
		first += run;
		count -= run;
	}
}

/*
 * Send what has been queued if it is worth a system call.  Postgres announces
 * single blocks, many at a time; whatever is left is sent with the next read.
 */
void
zenith_readahead_send_many(void)
{
	static uint32 sent = 0;

	if (request_head - sent >= MAX_UNSENT)
	{
		sent = request_head;
		zenith_pageserver_flush();
	}
}

/* The oldest request to a shard that has not been answered, or NULL. */
static Request *
oldest_request(int shard)
{
	for (uint32 i = request_tail; i != request_head; i++)
	{
		Request    *request = &requests[i & (capacity - 1)];

		if (!request->done && request->shard == shard)
			return request;
	}
	return NULL;
}

static void
forget_done_requests(void)
{
	while (request_tail != request_head && requests[request_tail & (capacity - 1)].done)
		request_tail++;
}

/* A reply has come that no reader waits for. */
void
zenith_readahead_receive(int shard, const ZenithReply *reply)
{
	Request    *request = oldest_request(shard);

	/* Requests whose reply was skipped can't be: a shard's replies come in order */
	if (request == NULL || request->id != reply->id)
		return;					/* of a reader that was cancelled */
	request->done = true;
	forget_done_requests();

	for (uint32 i = 0; i < request->count; i++)
	{
		Slot	   *slot = slot_at(request->first + i);

		if (reply->tag == 'g' && reply->count == request->count && reply->block + i == slot->block)
		{
			memcpy(page_at(request->first + i), reply->pages + (Size) i * BLCKSZ, BLCKSZ);
			slot->lsn = reply->lsn;
			slot->state = SLOT_READY;
		}
		else
			slot->state = SLOT_DEAD;
	}
}

/* Everything in flight from a shard is lost. */
void
zenith_readahead_reset(int shard)
{
	for (uint32 i = slot_tail; i != slot_head; i++)
	{
		if (slot_at(i)->state == SLOT_IN_FLIGHT && slot_at(i)->shard == shard)
			slot_at(i)->state = SLOT_DEAD;
	}
	for (uint32 i = request_tail; i != request_head; i++)
	{
		if (requests[i & (capacity - 1)].shard == shard)
			requests[i & (capacity - 1)].done = true;
	}
	forget_done_requests();
}

/*
 * Copy a page that was read ahead, waiting for it if it is under way.  False
 * if there is none that is good.
 */
bool
zenith_readahead_take(RelFileLocator locator, ForkNumber forknum,
					  BlockNumber block, char *page, XLogRecPtr *lsn)
{
	uint32		number;
	Slot	   *slot = find_slot(locator, forknum, block, &number);

	if (slot == NULL)
		return false;
	if (slot->state == SLOT_IN_FLIGHT && !zenith_pageserver_await(slot->shard, slot->request_id))
		return false;
	if (slot->state != SLOT_READY)
		return false;

	slot->state = SLOT_DEAD;
	if (zenith_lsn_of_block(locator, forknum, block) > slot->lsn)
	{
		zenith_count(ZENITH_READAHEAD_STALE, 1);
		return false;
	}
	memcpy(page, page_at(number), BLCKSZ);
	*lsn = slot->lsn;
	zenith_count(ZENITH_READAHEAD_HITS, 1);
	return true;
}

/* The stream that this read continues, or a new one. */
static Stream *
find_stream(RelFileLocator locator, ForkNumber forknum, BlockNumber first)
{
	Stream	   *oldest = &streams[0];
	Stream	   *jumped = NULL;

	for (int i = 0; i < STREAM_COUNT; i++)
	{
		Stream	   *stream = &streams[i];

		if (stream->used && stream->forknum == forknum &&
			RelFileLocatorEquals(stream->locator, locator))
		{
			if (stream->next == first)
				return stream;
			if (first > stream->next && first - stream->next <= MAX_JUMP &&
				(jumped == NULL || stream->next > jumped->next))
				jumped = stream;
		}
		if (stream->last_use < oldest->last_use)
			oldest = stream;
	}
	if (jumped)
	{
		jumped->usual_run = jumped->next - jumped->run_start;
		jumped->run_start = first;
		jumped->ahead = Max(jumped->ahead, first);
		return jumped;
	}
	oldest->locator = locator;
	oldest->forknum = forknum;
	oldest->used = true;
	oldest->run_start = first;
	oldest->ahead = first;
	oldest->usual_run = 0;
	return oldest;
}

/*
 * A reader reads these blocks now; request what it will want next if this
 * continues earlier reads.  The caller sends what has been queued.
 *
 * As much is requested as has been read already, so that at worst half of the
 * pages are for nothing.
 */
void
zenith_readahead_follow(RelFileLocator locator, ForkNumber forknum,
						BlockNumber first, int count)
{
	Stream	   *stream;
	BlockNumber length;
	BlockNumber window;
	BlockNumber nblocks;
	BlockNumber end;

	if (forknum != MAIN_FORKNUM || !set_up())
		return;

	stream = find_stream(locator, forknum, first);
	stream->last_use = ++stream_clock;
	stream->next = first + count;
	stream->ahead = Max(stream->ahead, stream->next);

	length = stream->next - stream->run_start;
	if (length < 2)
		return;
	if (stream->usual_run > 0 && length > stream->usual_run)
		stream->usual_run = length * 2;

	/* More than half of the window is still requested: that will do */
	window = Min(length, capacity / 2);
	if (stream->ahead - stream->next > window / 2)
		return;
	if (!zenith_size_lookup(locator, forknum, &nblocks) || nblocks == InvalidBlockNumber)
		return;

	end = Min(nblocks, stream->next + window);
	if (stream->usual_run > 0)
		end = Min(end, stream->run_start + stream->usual_run);
	if (end > stream->ahead)
	{
		zenith_readahead_submit(locator, forknum, stream->ahead, end - stream->ahead);
		stream->ahead = end;
	}
}
