/*
 * redo_consistency.c
 *		Checks a rebuilt page against the image that its record carries.
 *
 * With wal_consistency_checking, records carry an image of each block as it
 * was after the change, besides what redo needs.  As in crash recovery
 * (verifyBackupPageConsistency in xlogrecovery.c), the image and the page that
 * redo made are blanked where they may differ and compared.
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "storage/bufpage.h"

#include "zenith_walredo.h"

static PGAlignedBlock replayed;
static PGAlignedBlock logged;

/* The block id under which a record names the target and carries an image to check, or -1. */
static int
find_image(XLogReaderState *record, const BufferTag *target)
{
	for (int id = 0; id <= XLogRecMaxBlockId(record); id++)
	{
		RelFileLocator locator;
		ForkNumber	forknum;
		BlockNumber block;

		if (!XLogRecGetBlockTagExtended(record, id, &locator, &forknum, &block, NULL))
			continue;
		if (block != target->blockNum || forknum != BufTagGetForkNum(target) ||
			!BufTagMatchesRelFileLocator(target, &locator))
			continue;
		/* An image that redo has applied would be compared with itself */
		if (XLogRecHasBlockImage(record, id) && !XLogRecBlockImageApply(record, id))
			return id;
	}
	return -1;
}

/*
 * To be called when the record has been applied.  True if there was something
 * to compare; does not return if it was different.
 */
bool
redo_check_consistency(XLogReaderState *record, const BufferTag *target)
{
	RmgrData	rmgr = GetRmgr(XLogRecGetRmid(record));
	int			id;
	int			at;

	if ((XLogRecGetInfo(record) & XLR_CHECK_CONSISTENCY) == 0)
		return false;
	id = find_image(record, target);
	if (id < 0)
		return false;

	redo_smgr_copy_target(replayed.data);
	if (PageGetLSN((Page) replayed.data) > record->EndRecPtr)
		return false;
	if (!RestoreBlockImage(record, id, logged.data))
		elog(PANIC, "image for the consistency check cannot be restored: %s", record->errormsg_buf);
	if (rmgr.rm_mask != NULL)
	{
		rmgr.rm_mask(replayed.data, target->blockNum);
		rmgr.rm_mask(logged.data, target->blockNum);
	}
	for (at = 0; at < BLCKSZ && replayed.data[at] == logged.data[at]; at++)
		;
	if (at < BLCKSZ)
		elog(PANIC, "inconsistent page: it differs from the image in its record from byte %d on", at);
	return true;
}
