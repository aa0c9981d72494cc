/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  How far the page server is, as the supervisor tells it.
 *
 * The supervisor hears it from the safekeepers and writes it to a small file,
 * which all processes have mapped; the format is in
 * docs/formats/progress-file.md.  The three positions and their check word are
 * written by one call, and a reader that catches them half written reads again.
 * So are the size of the cluster and where in the WAL it has that size.
 * In the other direction the file carries what writers had to sleep.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "zenith.h"

#define PROGRESS_MAGIC 0x4752505a	/* "ZPRG" */
#define PROGRESS_VERSION 1
#define PROGRESS_CHECK UINT64CONST(0x5a656e6974685052)
#define READ_ATTEMPTS 1000

typedef struct ProgressFile
{
	uint32		magic;
	uint32		version;
	/* by the supervisor */
	uint64		lsns[ZENITH_POSITION_COUNT];
	uint64		check;			/* exclusive or of the LSNs and PROGRESS_CHECK */
	uint64		size[2];		/* bytes, and the LSN that they are as of */
	uint64		size_check;		/* the same of these two */
	/* by us */
	pg_atomic_uint64 sleeps;
	pg_atomic_uint64 slept_us;
	pg_atomic_uint64 holds_up;	/* 1 while a limit is exceeded */
} ProgressFile;

static ProgressFile *file = NULL;

/* Called by the postmaster; its children inherit the mapping. */
void
zenith_progress_startup(void)
{
	int			fd;
	struct stat info;
	void	   *address;

	if (zenith_progress_file[0] == '\0')
		return;
	fd = BasicOpenFile(zenith_progress_file, O_RDWR | PG_BINARY);
	if (fd < 0 || fstat(fd, &info) < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", zenith_progress_file)));
	if (info.st_size < (off_t) sizeof(ProgressFile))
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is too short", zenith_progress_file)));
	address = mmap(NULL, sizeof(ProgressFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (address == MAP_FAILED)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not map file \"%s\": %m", zenith_progress_file)));
	close(fd);
	file = address;
	if (file->magic != PROGRESS_MAGIC || file->version != PROGRESS_VERSION)
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is of another version", zenith_progress_file),
				 errhint("The supervisor makes it; start both from the same release.")));
}

/* A consistent copy of words that the supervisor has told, whose check word follows them. */
static void
read_words(volatile uint64 *shared, uint64 *words, int count)
{
	for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++)
	{
		uint64		check = PROGRESS_CHECK;

		for (int i = 0; i < count; i++)
		{
			words[i] = shared[i];
			check ^= words[i];
		}
		pg_read_barrier();
		if (check == shared[count])
			break;
	}
}

/*
 * The positions of the page server's slowest shard.  Before it has said
 * anything it has what this compute began with.  Without a supervisor, all that
 * is known is what the synchronous standby reports as applied.
 */
void
zenith_progress(XLogRecPtr lsns[ZENITH_POSITION_COUNT])
{
	XLogRecPtr	quorum;

	if (file == NULL)
	{
		lsns[ZENITH_RECEIVED] = lsns[ZENITH_ON_DISK] = InvalidXLogRecPtr;
		(void) zenith_proposer_positions(&quorum, &lsns[ZENITH_IN_OBJECT_STORAGE]);
		return;
	}
	read_words(file->lsns, lsns, ZENITH_POSITION_COUNT);
	for (int i = 0; i < ZENITH_POSITION_COUNT; i++)
	{
		if (XLogRecPtrIsInvalid(lsns[i]))
			lsns[i] = zenith_start_lsn;
	}
}

/*
 * Bytes of all relations, and the end of the WAL that they follow from.  False
 * if nobody has told yet.
 */
bool
zenith_progress_size(uint64 *bytes, XLogRecPtr *as_of)
{
	uint64		words[2];

	if (file == NULL)
		return false;
	read_words(file->size, words, lengthof(words));
	*bytes = words[0];
	*as_of = words[1];
	return *bytes > 0;
}

/* For the supervisor's metrics: a writer has slept. */
void
zenith_progress_slept(uint64 microseconds)
{
	if (file == NULL)
		return;
	pg_atomic_fetch_add_u64(&file->sleeps, 1);
	pg_atomic_fetch_add_u64(&file->slept_us, microseconds);
}

/* For the supervisor's metrics: whether a limit is exceeded. */
void
zenith_progress_holds_up(bool yes)
{
	if (file != NULL)
		pg_atomic_write_u64(&file->holds_up, yes ? 1 : 0);
}
