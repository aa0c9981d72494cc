/*-------------------------------------------------------------------------
 *
 * compare_buffers.c
 *	  Compares every page in the buffer pool with what the page server gives.
 *
 * Pages are read from the page server in runs first.  A buffer that differs
 * from its page is compared once more with the buffer locked and the page read
 * anew, so that a change in between isn't taken for a difference.
 *
 * Equal means: in every byte, or after the masks of wal_consistency_checking
 * and of what is said at each of the tests below.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/spgist_private.h"
#include "access/xlog.h"
#include "commands/sequence.h"
#include "common/relpath.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/fsm_internals.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/tuplestore.h"

#include "page_masks.h"
#include "page_reader.h"

PG_FUNCTION_INFO_V1(compare_buffers);

/* Blocks asked for at once; the page server takes no more than 64 */
#define RUN_BLOCKS	32

/* LSNs below are made up, by index builds that log their pages at the end */
#define FIRST_REAL_LSN	1000

typedef struct BufferEntry
{
	BufferTag	tag;
	Buffer		buffer;
	bool		permanent;
} BufferEntry;

typedef enum Verdict
{
	IDENTICAL,
	EQUAL_MASKED,				/* equal in all that counts */
	NOT_LOGGED,					/* the page server can't know: see the callers */
	DIFFERENT,
} Verdict;

static const char *const verdict_names[] = {"identical", "masked", "not logged", "different"};

static int
compare_tags(const void *a, const void *b)
{
	const BufferTag *x = &((const BufferEntry *) a)->tag;
	const BufferTag *y = &((const BufferEntry *) b)->tag;

	if (x->spcOid != y->spcOid)
		return x->spcOid < y->spcOid ? -1 : 1;
	if (x->dbOid != y->dbOid)
		return x->dbOid < y->dbOid ? -1 : 1;
	if (x->relNumber != y->relNumber)
		return x->relNumber < y->relNumber ? -1 : 1;
	if (x->forkNum != y->forkNum)
		return x->forkNum < y->forkNum ? -1 : 1;
	if (x->blockNum != y->blockNum)
		return x->blockNum < y->blockNum ? -1 : 1;
	return 0;
}

static int
collect_buffers(BufferEntry *entries)
{
	int			count = 0;

	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *desc = GetBufferDescriptor(i);
		uint32		state = LockBufHdr(desc);

		if ((state & BM_VALID) && (state & BM_TAG_VALID))
		{
			entries[count].tag = desc->tag;
			entries[count].buffer = BufferDescriptorGetBuffer(desc);
			entries[count].permanent = (state & BM_PERMANENT) != 0;
			count++;
		}
		UnlockBufHdr(desc, state);
	}
	qsort(entries, count, sizeof(BufferEntry), compare_tags);
	return count;
}

static int
first_difference(const char *a, const char *b, int from)
{
	for (int at = from; at < BLCKSZ; at++)
	{
		if (a[at] != b[at])
			return at;
	}
	return -1;
}

/*
 * Blank out the values that a sequence has in store.  The logged page says
 * that they are all used, the one in memory counts them (log_cnt).
 */
static void
mask_sequence(char *page)
{
	ItemId		item = PageGetItemId((Page) page, FirstOffsetNumber);
	HeapTupleHeader tuple = (HeapTupleHeader) PageGetItem((Page) page, item);
	Form_pg_sequence_data data = (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);

	data->last_value = 0;
	data->log_cnt = 0;
	data->is_called = false;
}

static bool
is_zero_page(const char *page)
{
	for (int at = 0; at < BLCKSZ; at++)
	{
		if (page[at] != 0)
			return false;
	}
	return true;
}

/*
 * A page that was initialized and never used: heap and SP-GiST don't log that
 * and initialize the page again when they find zeros.
 */
static bool
is_unused_page(const char *page)
{
	return !PageIsNew((Page) page) && PageIsEmpty((Page) page) &&
		PageGetLSN((Page) page) < FIRST_REAL_LSN;
}

/* SP-GiST notes on its first page where there was room last, without WAL. */
static void
mask_spgist_cache(char *page)
{
	if (PageGetSpecialSize((Page) page) == MAXALIGN(sizeof(SpGistPageOpaqueData)) &&
		SpGistPageGetOpaque((Page) page)->spgist_page_id == SPGIST_PAGE_ID &&
		SpGistPageIsMeta((Page) page))
		memset(&SpGistPageGetMeta((Page) page)->lastUsedPages, 0, sizeof(SpGistLUPCache));
}

static Verdict
compare_main(const char *ours, const char *theirs, BlockNumber block, int *difference)
{
	PGAlignedBlock a;
	PGAlignedBlock b;

	memcpy(a.data, ours, BLCKSZ);
	memcpy(b.data, theirs, BLCKSZ);
	if (is_unused_page(a.data) && is_zero_page(b.data))
		return NOT_LOGGED;
	if (!PageIsNew((Page) a.data) && !PageIsNew((Page) b.data))
	{
		/* index-only scans and skipping by VACUUM rely on it, so it isn't just a hint */
		if (PageIsAllVisible((Page) a.data) != PageIsAllVisible((Page) b.data))
		{
			*difference = offsetof(PageHeaderData, pd_flags);
			return DIFFERENT;
		}
		if (zenith_page_is_sequence(a.data, block) && zenith_page_is_sequence(b.data, block))
		{
			mask_sequence(a.data);
			mask_sequence(b.data);
		}
		mask_spgist_cache(a.data);
		mask_spgist_cache(b.data);
		zenith_mask_page(a.data, block);
		zenith_mask_page(b.data, block);
	}
	*difference = first_difference(a.data, b.data, 0);
	return *difference < 0 ? EQUAL_MASKED : DIFFERENT;
}

static Verdict
compare_pages(const BufferEntry *entry, bool dirty, const char *ours, const char *theirs,
			  int *difference)
{
	*difference = first_difference(ours, theirs, 0);
	if (*difference < 0)
		return IDENTICAL;
	switch (BufTagGetForkNum(&entry->tag))
	{
		case FSM_FORKNUM:
			/* logged when it is written, so only what is clean is there */
			if (dirty)
				return NOT_LOGGED;
			/* the place to search from next is changed without dirtying the page */
			*difference = first_difference(ours, theirs,
										   MAXALIGN(SizeOfPageHeaderData) + sizeof(int));
			return *difference < 0 ? EQUAL_MASKED : DIFFERENT;
		case VISIBILITYMAP_FORKNUM:
			/* bits are cleared in memory without setting the LSN */
			*difference = first_difference(ours, theirs, MAXALIGN(SizeOfPageHeaderData));
			return *difference < 0 ? EQUAL_MASKED : DIFFERENT;
		default:
			return compare_main(ours, theirs, entry->tag.blockNum, difference);
	}
}

static void
report(ReturnSetInfo *result, const BufferEntry *entry, const char *verdict,
	   int difference, const char *ours, const char *theirs)
{
	Datum		values[9];
	bool		nulls[9] = {false};

	values[0] = ObjectIdGetDatum(entry->tag.spcOid);
	values[1] = ObjectIdGetDatum(entry->tag.dbOid);
	values[2] = ObjectIdGetDatum(entry->tag.relNumber);
	values[3] = CStringGetTextDatum(forkNames[BufTagGetForkNum(&entry->tag)]);
	values[4] = Int64GetDatum((int64) entry->tag.blockNum);
	values[5] = CStringGetTextDatum(verdict);
	values[6] = Int32GetDatum(difference);
	nulls[6] = difference < 0;
	nulls[7] = nulls[8] = ours == NULL;
	if (ours != NULL)
	{
		values[7] = LSNGetDatum(PageGetLSN((Page) ours));
		values[8] = LSNGetDatum(PageGetLSN((Page) theirs));
	}
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
compare_buffer(ReturnSetInfo *result, const BufferEntry *entry, char *theirs)
{
	RelFileLocator locator = BufTagGetRelFileLocator(&entry->tag);
	ForkNumber	forknum = BufTagGetForkNum(&entry->tag);
	BufferDesc *desc = GetBufferDescriptor(entry->buffer - 1);
	PGAlignedBlock ours;
	Verdict		verdict;
	int			difference;

	if (!ReadRecentBuffer(locator, forknum, entry->tag.blockNum, entry->buffer))
	{
		report(result, entry, "gone", -1, NULL, NULL);
		return;
	}
	LockBuffer(entry->buffer, BUFFER_LOCK_SHARE);
	for (int attempt = 0;; attempt++)
	{
		bool		dirty = (pg_atomic_read_u32(&desc->state) & BM_DIRTY) != 0;

		/* hint bits may be set meanwhile, so compare a copy */
		memcpy(ours.data, BufferGetPage(entry->buffer), BLCKSZ);
		verdict = compare_pages(entry, dirty, ours.data, theirs, &difference);
		if (verdict != DIFFERENT || attempt > 0)
			break;
		zenith_read_newest_pages(locator, forknum, entry->tag.blockNum, 1, theirs);
	}
	UnlockReleaseBuffer(entry->buffer);
	report(result, entry, verdict_names[verdict], verdict == DIFFERENT ? difference : -1,
		   ours.data, theirs);
}

static int
run_length(const BufferEntry *entries, int count)
{
	int			length = 1;

	while (length < count && length < RUN_BLOCKS)
	{
		BufferTag	expected = entries[0].tag;

		expected.blockNum += length;
		if (!BufferTagsEqual(&expected, &entries[length].tag) || !entries[length].permanent)
			break;
		length++;
	}
	return length;
}

/*
 * compare_buffers() returns one row for each page in the buffer pool.
 *
 * Verdicts: identical; masked (equal but for hints and the like); not logged
 * (see above); local (of an unlogged relation); gone (left the pool
 * meanwhile); different.
 */
Datum
compare_buffers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	BufferEntry *entries = palloc_extended(NBuffers * sizeof(BufferEntry), MCXT_ALLOC_HUGE);
	char	   *pages = palloc(RUN_BLOCKS * BLCKSZ);
	int			count;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to compare buffers")));
	InitMaterializedSRF(fcinfo, 0);

	count = collect_buffers(entries);
	for (int at = 0; at < count;)
	{
		RelFileLocator locator = BufTagGetRelFileLocator(&entries[at].tag);
		int			run;

		CHECK_FOR_INTERRUPTS();
		if (!entries[at].permanent)
		{
			report(result, &entries[at++], "local", -1, NULL, NULL);
			continue;
		}
		run = run_length(&entries[at], count - at);
		zenith_read_newest_pages(locator, BufTagGetForkNum(&entries[at].tag),
								 entries[at].tag.blockNum, run, pages);
		for (int i = 0; i < run; i++)
			compare_buffer(result, &entries[at + i], pages + (Size) i * BLCKSZ);
		at += run;
	}
	return (Datum) 0;
}
