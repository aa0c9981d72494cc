/*-------------------------------------------------------------------------
 *
 * page_masks.c
 *	  Blanks out what two correct copies of a page may differ in.
 *
 * The masks are those that wal_consistency_checking uses, called through the
 * resource managers' own rm_mask, so they are right by construction.  Which
 * one fits is read off the page, as index pages carry marks for exactly that
 * purpose; no catalog is needed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/brin_page.h"
#include "access/gist.h"
#include "access/ginblock.h"
#include "access/hash.h"
#include "access/nbtree.h"
#include "access/rmgr.h"
#include "access/spgist_private.h"
#include "access/xlog_internal.h"
#include "fmgr.h"
#include "storage/bufpage.h"
#include "varatt.h"

#include "page_masks.h"

/* From sequence.c and contrib/bloom, which don't export them. */
#define SEQ_MAGIC		0x1717
#define BLOOM_PAGE_ID	0xFF83

PG_FUNCTION_INFO_V1(mask_pages);

static RmgrId
resource_manager_of(const char *bytes, BlockNumber block)
{
	Page		page = (Page) bytes;
	Size		special_size = PageGetSpecialSize(page);
	uint16		mark;

	if (special_size < sizeof(uint64))
		return RM_HEAP_ID;
	/* The last two bytes of the page, by common agreement. */
	mark = *(uint16 *) (page + BLCKSZ - sizeof(uint16));
	if (mark == HASHO_PAGE_ID)
		return RM_HASH_ID;
	if (mark == GIST_PAGE_ID)
		return RM_GIST_ID;
	if (mark == SPGIST_PAGE_ID)
		return RM_SPGIST_ID;
	if (mark == BLOOM_PAGE_ID)
		return RM_GENERIC_ID;
	if (special_size == MAXALIGN(sizeof(BTPageOpaqueData)))
		return RM_BTREE_ID;
	if (BrinPageType(page) == BRIN_PAGETYPE_META ||
		BrinPageType(page) == BRIN_PAGETYPE_REVMAP ||
		BrinPageType(page) == BRIN_PAGETYPE_REGULAR)
		return RM_BRIN_ID;
	if (block == 0 && *(uint32 *) PageGetSpecialPointer(page) == SEQ_MAGIC)
		return RM_SEQ_ID;
	return RM_GIN_ID;
}

void
zenith_mask_page(char *page, BlockNumber block)
{
	GetRmgr(resource_manager_of(page, block)).rm_mask(page, block);
}

bool
zenith_page_is_sequence(const char *page, BlockNumber block)
{
	return resource_manager_of(page, block) == RM_SEQ_ID;
}

/*
 * mask_pages(first_block bigint, pages bytea) returns bytea
 *
 * Pages of one relation's main or init fork, one after the other, the first
 * being that block.  Pages of zeros stay as they are.
 */
Datum
mask_pages(PG_FUNCTION_ARGS)
{
	BlockNumber first = (BlockNumber) PG_GETARG_INT64(0);
	bytea	   *pages = PG_GETARG_BYTEA_P_COPY(1);
	Size		size = VARSIZE_ANY_EXHDR(pages);
	PGAlignedBlock aligned;

	if (size % BLCKSZ != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%zu bytes are not a whole number of pages", size)));

	for (Size at = 0; at < size; at += BLCKSZ)
	{
		BlockNumber block = first + at / BLCKSZ;
		Page		page = (Page) aligned.data;

		memcpy(page, VARDATA(pages) + at, BLCKSZ);
		if (PageIsNew(page))
			continue;
		zenith_mask_page((char *) page, block);
		memcpy(VARDATA(pages) + at, page, BLCKSZ);
	}
	PG_RETURN_BYTEA_P(pages);
}
