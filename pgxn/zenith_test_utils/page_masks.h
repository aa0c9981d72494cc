/*
 * page_masks.h
 *		What two correct copies of a page may differ in.  See page_masks.c.
 */
#ifndef PAGE_MASKS_H
#define PAGE_MASKS_H

#include "storage/block.h"

/* Both take a page of a main or init fork that isn't new. */
extern void zenith_mask_page(char *page, BlockNumber block);
extern bool zenith_page_is_sequence(const char *page, BlockNumber block);

#endif							/* PAGE_MASKS_H */
