/*-------------------------------------------------------------------------
 *
 * side_file.c
 *	  Local files for pages that are not in the WAL yet.
 *
 * GIN, GiST and SP-GiST (and access methods outside of core) build an index
 * without WAL and log all its pages at the end.  If such a page leaves the
 * buffer pool before, the page server can't know it.  It is kept in a local
 * file, one per relation fork, at the offset of its block number, until it is
 * written again with an LSN.  A compute that restarts loses the files, which
 * is right: the transaction that built the index is gone, too.
 *
 * A block is in the file iff its page there isn't all zeros.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "zenith.h"

#define SIDE_DIRECTORY	"pg_zenith_side"
#define MAX_SIDE_FILES	1024

typedef struct SideFile
{
	RelFileLocator locator;
	ForkNumber	forknum;
	bool		used;
	uint32		pages;			/* in the file; not lowered by truncation */
} SideFile;

typedef struct SideFiles
{
	pg_atomic_uint32 active;	/* entries in use */
	uint32		limit;			/* entries from here on were never used */
	SideFile	files[MAX_SIDE_FILES];
} SideFiles;

static SideFiles *side = NULL;
static LWLock *side_lock = NULL;

Size
zenith_side_shmem_size(void)
{
	return sizeof(SideFiles);
}

void
zenith_side_shmem_init(void)
{
	bool		found;

	side = ShmemInitStruct("zenith side files", sizeof(SideFiles), &found);
	side_lock = &GetNamedLWLockTranche("ZenithSideFile")->lock;
	if (!found)
	{
		memset(side, 0, sizeof(SideFiles));
		pg_atomic_init_u32(&side->active, 0);

		/* What an earlier server left is of no use */
		if (access(SIDE_DIRECTORY, F_OK) == 0)
			rmtree(SIDE_DIRECTORY, true);
		if (MakePGDirectory(SIDE_DIRECTORY) < 0 && errno != EEXIST)
			ereport(FATAL,
					(errcode_for_file_access(),
					 errmsg("could not create directory \"%s\": %m", SIDE_DIRECTORY)));
	}
}

/* Are there any side files?  Almost always there are none. */
bool
zenith_side_active(void)
{
	return side != NULL && pg_atomic_read_u32(&side->active) > 0;
}

static void
side_path(char *path, RelFileLocator locator, ForkNumber forknum)
{
	snprintf(path, MAXPGPATH, SIDE_DIRECTORY "/%u.%u.%u.%d",
			 locator.spcOid, locator.dbOid, locator.relNumber, (int) forknum);
}

static SideFile *
find_file(RelFileLocator locator, ForkNumber forknum)
{
	for (uint32 i = 0; i < side->limit; i++)
	{
		SideFile   *file = &side->files[i];

		if (file->used && file->forknum == forknum &&
			RelFileLocatorEquals(file->locator, locator))
			return file;
	}
	return NULL;
}

static SideFile *
make_file(RelFileLocator locator, ForkNumber forknum)
{
	for (uint32 i = 0; i < MAX_SIDE_FILES; i++)
	{
		SideFile   *file = &side->files[i];

		if (file->used)
			continue;
		file->locator = locator;
		file->forknum = forknum;
		file->pages = 0;
		file->used = true;
		side->limit = Max(side->limit, i + 1);
		pg_atomic_fetch_add_u32(&side->active, 1);
		return file;
	}
	return NULL;
}

/* Usable in critical sections. */
static void
drop_file(SideFile *file, const char *path)
{
	unlink(path);
	file->used = false;
	pg_atomic_fetch_sub_u32(&side->active, 1);
}

static int
open_file(const char *path, int flags)
{
	int			fd = OpenTransientFile(path, flags | PG_BINARY);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

/* Read a block of the file; a block beyond its end is all zeros. */
static void
read_block(int fd, const char *path, BlockNumber block, char *page)
{
	ssize_t		n = pg_pread(fd, page, BLCKSZ, (off_t) block * BLCKSZ);

	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read block %u of file \"%s\": %m", block, path)));
	if (n < BLCKSZ)
		memset(page + n, 0, BLCKSZ - n);
}

static void
write_block(int fd, const char *path, BlockNumber block, const char *page)
{
	errno = 0;
	if (pg_pwrite(fd, page, BLCKSZ, (off_t) block * BLCKSZ) != BLCKSZ)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write block %u of file \"%s\": %m", block, path)));
	}
}

/* Keep a page; false if there are too many files. */
bool
zenith_side_write(RelFileLocator locator, ForkNumber forknum,
				  BlockNumber block, const char *page)
{
	char		path[MAXPGPATH];
	PGAlignedBlock old;
	SideFile   *file;
	int			fd;

	side_path(path, locator, forknum);
	LWLockAcquire(side_lock, LW_EXCLUSIVE);
	file = find_file(locator, forknum);
	if (file == NULL)
		file = make_file(locator, forknum);
	if (file == NULL)
	{
		LWLockRelease(side_lock);
		return false;
	}
	fd = open_file(path, O_RDWR | O_CREAT);
	read_block(fd, path, block, old.data);
	write_block(fd, path, block, page);
	if (PageIsNew((Page) old.data))
		file->pages++;
	CloseTransientFile(fd);
	LWLockRelease(side_lock);

	zenith_count(ZENITH_SIDE_PAGES_WRITTEN, 1);
	return true;
}

/* Get a page that is kept; false, and the page untouched, if it isn't. */
bool
zenith_side_read(RelFileLocator locator, ForkNumber forknum,
				 BlockNumber block, char *page)
{
	char		path[MAXPGPATH];
	PGAlignedBlock kept;
	bool		found = false;

	LWLockAcquire(side_lock, LW_SHARED);
	if (find_file(locator, forknum) != NULL)
	{
		int			fd;

		side_path(path, locator, forknum);
		fd = open_file(path, O_RDWR | O_CREAT);
		read_block(fd, path, block, kept.data);
		CloseTransientFile(fd);
		found = !PageIsNew((Page) kept.data);
	}
	LWLockRelease(side_lock);
	if (found)
	{
		memcpy(page, kept.data, BLCKSZ);
		zenith_count(ZENITH_SIDE_PAGES_READ, 1);
	}
	return found;
}

/* The page is in the WAL now. */
void
zenith_side_remove(RelFileLocator locator, ForkNumber forknum, BlockNumber block)
{
	static const PGAlignedBlock zeros = {{0}};
	char		path[MAXPGPATH];
	PGAlignedBlock kept;
	SideFile   *file;

	LWLockAcquire(side_lock, LW_SHARED);
	file = find_file(locator, forknum);
	LWLockRelease(side_lock);
	if (file == NULL)
		return;

	side_path(path, locator, forknum);
	LWLockAcquire(side_lock, LW_EXCLUSIVE);
	file = find_file(locator, forknum);
	if (file != NULL)
	{
		int			fd = open_file(path, O_RDWR | O_CREAT);

		read_block(fd, path, block, kept.data);
		if (!PageIsNew((Page) kept.data))
		{
			write_block(fd, path, block, zeros.data);
			file->pages--;
		}
		CloseTransientFile(fd);
		if (file->pages == 0)
			drop_file(file, path);
	}
	LWLockRelease(side_lock);
}

/*
 * Forget pages of blocks that are no more.  Called in critical sections and
 * after commit, so nothing is allocated and a failure is harmless: at worst
 * the file stays until the server restarts.
 */
void
zenith_side_truncate(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks)
{
	char		path[MAXPGPATH];
	SideFile   *file;

	LWLockAcquire(side_lock, LW_EXCLUSIVE);
	file = find_file(locator, forknum);
	if (file != NULL)
	{
		struct stat st;

		side_path(path, locator, forknum);
		if (nblocks == 0)
			drop_file(file, path);
		else if (stat(path, &st) == 0 && st.st_size > (off_t) nblocks * BLCKSZ)
			(void) !truncate(path, (off_t) nblocks * BLCKSZ);
	}
	LWLockRelease(side_lock);
}
