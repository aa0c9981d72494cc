/*-------------------------------------------------------------------------
 *
 * transient_state.c
 *	  Log what a page holds for running transactions and redo doesn't rebuild.
 *
 * Stock WAL leaves out what nobody needs after a crash, as no transaction
 * survives one.  Here a page can be rebuilt from WAL while the transactions
 * that changed it still run:
 *
 *	- command ids of heap tuples (cmin, cmax, the combo flag): without them a
 *	  cursor or an update sees its own later changes
 *	- the token of a speculative insertion (INSERT ... ON CONFLICT)
 *	- the vacuum cycle id of a B-tree page, by which a running vacuum knows
 *	  that the page was split behind its back
 *
 * When such a page leaves the buffer pool, these bytes are logged as one
 * Generic WAL record, a list of (offset, length, bytes), which stock redo
 * applies.  The bytes are copied literally, so if some other kind of page is
 * mistaken for one of these, the record just says what is there anyway.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/generic_xlog.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "storage/bufpage.h"
#include "storage/procarray.h"

#include "zenith.h"

/* More than this and an image of the page costs little more */
#define MAX_FRAGMENT_BYTES	2560

typedef struct Fragments
{
	int			length;
	bool		overflow;
	char		bytes[MAX_FRAGMENT_BYTES];
} Fragments;

typedef struct RunningCheck
{
	TransactionId oldest;		/* oldest that runs; invalid = not asked yet */
	TransactionId last;			/* last that was tested */
	bool		last_runs;
} RunningCheck;

static bool
is_running(RunningCheck *check, TransactionId xid)
{
	if (!TransactionIdIsNormal(xid))
		return false;
	if (!TransactionIdIsValid(check->oldest))
		check->oldest = GetOldestActiveTransactionId();
	if (TransactionIdPrecedes(xid, check->oldest))
		return false;
	if (!TransactionIdEquals(xid, check->last))
	{
		check->last = xid;

		/*
		 * One that has ended looks as if it ran while its commit waits for the
		 * quorum.  Its command ids mean nothing any more, and the commit
		 * record may be the one that drops this relation.
		 */
		check->last_runs = TransactionIdIsInProgress(xid) &&
			!TransactionIdDidCommit(xid) && !TransactionIdDidAbort(xid);
	}
	return check->last_runs;
}

static void
add_fragment(Fragments *fragments, const char *page, uint16 offset, uint16 length)
{
	char	   *at = fragments->bytes + fragments->length;

	if (fragments->length + (int) (2 * sizeof(uint16)) + length > MAX_FRAGMENT_BYTES)
	{
		fragments->overflow = true;
		return;
	}
	memcpy(at, &offset, sizeof(offset));
	memcpy(at + sizeof(offset), &length, sizeof(length));
	memcpy(at + 2 * sizeof(uint16), page + offset, length);
	fragments->length += 2 * sizeof(uint16) + length;
}

/*
 * Can anybody still need the command ids of this tuple?  Only the transaction
 * that inserted it or deleted it, while it runs.  With certain_only, don't
 * keep what merely might be needed.
 */
static bool
tuple_is_unfinished(RunningCheck *check, HeapTupleHeader tuple, bool certain_only)
{
	uint16		infomask = tuple->t_infomask;

	if (!(infomask & (HEAP_XMIN_COMMITTED | HEAP_XMIN_INVALID)) &&
		is_running(check, HeapTupleHeaderGetRawXmin(tuple)))
		return true;
	if ((infomask & (HEAP_XMAX_COMMITTED | HEAP_XMAX_INVALID)) ||
		HEAP_XMAX_IS_LOCKED_ONLY(infomask))
		return false;
	/* finding the updater among the members isn't worth the look-up */
	if (infomask & HEAP_XMAX_IS_MULTI)
		return !certain_only;
	return is_running(check, HeapTupleHeaderGetRawXmax(tuple));
}

static void
collect_heap(Fragments *fragments, const char *page, bool certain_only)
{
	RunningCheck check = {InvalidTransactionId, InvalidTransactionId, false};
	OffsetNumber max = PageGetMaxOffsetNumber((Page) page);

	for (OffsetNumber n = FirstOffsetNumber; n <= max; n++)
	{
		ItemId		item = PageGetItemId((Page) page, n);
		uint16		offset = ItemIdGetOffset(item);
		HeapTupleHeader tuple = (HeapTupleHeader) (page + offset);
		bool		combo;
		bool		speculative;

		if (!ItemIdIsNormal(item) || ItemIdGetLength(item) < SizeofHeapTupleHeader ||
			offset < ((PageHeader) page)->pd_upper || offset != MAXALIGN(offset) ||
			offset + ItemIdGetLength(item) > BLCKSZ)
			continue;
		if (tuple->t_infomask & HEAP_MOVED)
			continue;

		/* redo makes command id 0 and neither of these; is it different? */
		combo = (tuple->t_infomask & HEAP_COMBOCID) != 0;
		speculative = HeapTupleHeaderIsSpeculative(tuple);
		if (HeapTupleHeaderGetRawCommandId(tuple) == FirstCommandId && !combo && !speculative)
			continue;
		if (!tuple_is_unfinished(&check, tuple, certain_only))
			continue;

		if (speculative)
			add_fragment(fragments, page,
						 offset + offsetof(HeapTupleHeaderData, t_choice.t_heap.t_field3),
						 offsetof(HeapTupleHeaderData, t_hoff) -
						 offsetof(HeapTupleHeaderData, t_choice.t_heap.t_field3));
		else
		{
			add_fragment(fragments, page,
						 offset + offsetof(HeapTupleHeaderData, t_choice.t_heap.t_field3),
						 sizeof(CommandId));
			if (combo)
				add_fragment(fragments, page,
							 offset + offsetof(HeapTupleHeaderData, t_infomask),
							 sizeof(uint16));
		}
	}
}

static void
collect_btree(Fragments *fragments, const char *page)
{
	BTPageOpaque opaque = (BTPageOpaque) PageGetSpecialPointer((Page) page);

	/* other access methods with as much special space put their mark there */
	if (opaque->btpo_cycleid != 0 && opaque->btpo_cycleid <= MAX_BT_CYCLE_ID)
		add_fragment(fragments, page,
					 (const char *) &opaque->btpo_flags - page,
					 sizeof(opaque->btpo_flags) + sizeof(opaque->btpo_cycleid));
}

static bool
is_standard_page(const char *page)
{
	PageHeader	header = (PageHeader) page;

	return header->pd_lower >= SizeOfPageHeaderData &&
		header->pd_lower <= header->pd_upper &&
		header->pd_upper <= header->pd_special &&
		header->pd_special <= BLCKSZ &&
		header->pd_special == MAXALIGN(header->pd_special);
}

/*
 * Log the transient state of a main fork page, if it has any.  Returns the end
 * of the record, or InvalidXLogRecPtr.
 *
 * The page must be a private copy: others may be setting hint bits in the
 * buffer.  It must be impossible to change the page otherwise meanwhile, which
 * the share lock of whoever writes it sees to.  That also puts the record
 * after all changes that it describes and before the next one.
 */
XLogRecPtr
zenith_log_transient_state(RelFileLocator locator, ForkNumber forknum,
						   BlockNumber block, const char *page, bool certain_only)
{
	Fragments	fragments;
	XLogRecPtr	end;
	bool		checking;

	if (zenith_transient_logging == ZENITH_TRANSIENT_OFF || !is_standard_page(page))
		return InvalidXLogRecPtr;

	fragments.length = 0;
	fragments.overflow = false;
	if (PageGetSpecialSize((Page) page) == 0)
		collect_heap(&fragments, page, certain_only);
	else if (PageGetSpecialSize((Page) page) == MAXALIGN(sizeof(BTPageOpaqueData)))
		collect_btree(&fragments, page);
	if (fragments.length == 0 && !fragments.overflow)
		return InvalidXLogRecPtr;

	if (fragments.overflow || zenith_transient_logging == ZENITH_TRANSIENT_IMAGES)
	{
		PGAlignedBlock image;

		memcpy(image.data, page, BLCKSZ);
		zenith_count(ZENITH_TRANSIENT_IMAGES_COUNTER, 1);
		return log_newpage(&locator, forknum, block, (Page) image.data, true);
	}

	/* An image of the page would hold hint bits, which the mask of Generic records leaves in */
	checking = wal_consistency_checking[RM_GENERIC_ID];
	wal_consistency_checking[RM_GENERIC_ID] = false;
	XLogBeginInsert();
	XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
	XLogRegisterBlock(0, &locator, forknum, block, (char *) page, REGBUF_STANDARD);
	XLogRegisterBufData(0, fragments.bytes, fragments.length);
	end = XLogInsert(RM_GENERIC_ID, 0);
	wal_consistency_checking[RM_GENERIC_ID] = checking;

	zenith_count(ZENITH_FRAGMENT_RECORDS, 1);
	zenith_count(ZENITH_FRAGMENT_BYTES, fragments.length);
	return end;
}
