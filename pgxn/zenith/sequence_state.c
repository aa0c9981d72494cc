/*-------------------------------------------------------------------------
 *
 * sequence_state.c
 *	  Values that sequences have in store, kept while their page is away.
 *
 * A sequence logs 32 values in advance, as if they had been used, and then
 * hands them out without WAL.  So a page that is rebuilt from WAL skips what
 * was left of them.  That is right after a crash, but shouldn't happen whenever
 * the page has left the buffer pool.  It can't be logged: a page that has been
 * written may stay in the pool, and go on handing out values that the record
 * says are still to come.
 *
 * Instead the state is noted in shared memory when the page is written, and put
 * back into the page when it is read.  The LSN tells whether they belong
 * together: what isn't logged doesn't change it.  There is room for a fixed
 * number of sequences; for those that were pushed out values are skipped.  At a
 * clean stop what is in store is logged (shutdown_state.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "storage/bufpage.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "zenith.h"

/* As in commands/sequence.c */
#define SEQ_MAGIC	0x1717

#define SET_COUNT	2048
#define SET_WAYS	8

typedef struct SequenceEntry
{
	RelFileLocator locator;
	bool		used;
	bool		is_called;
	XLogRecPtr	lsn;
	int64		last_value;
	int64		log_cnt;
} SequenceEntry;

typedef struct SequenceStates
{
	SequenceEntry entries[SET_COUNT][SET_WAYS];
	uint32		next_victim[SET_COUNT];
} SequenceStates;

static SequenceStates *states = NULL;
static LWLockPadded *locks = NULL;

Size
zenith_sequence_shmem_size(void)
{
	return sizeof(SequenceStates);
}

void
zenith_sequence_shmem_init(void)
{
	bool		found;

	states = ShmemInitStruct("zenith sequence states", sizeof(SequenceStates), &found);
	locks = GetNamedLWLockTranche("ZenithSequenceState");
	if (!found)
		memset(states, 0, sizeof(SequenceStates));
}

/* The data of a page if it is a sequence's, else NULL. */
Form_pg_sequence_data
zenith_sequence_data(const char *page)
{
	PageHeader	header = (PageHeader) page;
	ItemId		item;
	HeapTupleHeader tuple;
	uint32		magic;

	if (header->pd_special != BLCKSZ - MAXALIGN(sizeof(uint32)) ||
		PageGetMaxOffsetNumber((Page) page) != FirstOffsetNumber)
		return NULL;
	memcpy(&magic, page + header->pd_special, sizeof(magic));
	if (magic != SEQ_MAGIC)
		return NULL;

	item = PageGetItemId((Page) page, FirstOffsetNumber);
	if (!ItemIdIsNormal(item) || ItemIdGetOffset(item) != MAXALIGN(ItemIdGetOffset(item)) ||
		ItemIdGetOffset(item) + ItemIdGetLength(item) > header->pd_special)
		return NULL;
	tuple = (HeapTupleHeader) (page + ItemIdGetOffset(item));
	if (tuple->t_hoff != MAXALIGN(SizeofHeapTupleHeader) ||
		ItemIdGetLength(item) < tuple->t_hoff + offsetof(FormData_pg_sequence_data, is_called) + 1)
		return NULL;
	return (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);
}

static uint32
find_set(const RelFileLocator *locator)
{
	return hash_bytes((const unsigned char *) locator, sizeof(RelFileLocator)) % SET_COUNT;
}

static SequenceEntry *
find_entry(uint32 set, const RelFileLocator *locator)
{
	for (int i = 0; i < SET_WAYS; i++)
	{
		SequenceEntry *entry = &states->entries[set][i];

		if (entry->used && RelFileLocatorEquals(entry->locator, *locator))
			return entry;
	}
	return NULL;
}

/* An entry to write to: a free one, or one that is pushed out. */
static SequenceEntry *
take_entry(uint32 set)
{
	for (int i = 0; i < SET_WAYS; i++)
	{
		if (!states->entries[set][i].used)
			return &states->entries[set][i];
	}
	return &states->entries[set][states->next_victim[set]++ % SET_WAYS];
}

static LWLock *
lock_of(uint32 set)
{
	return &locks[set % ZENITH_SEQUENCE_LOCKS].lock;
}

/* Remember the state of a sequence, or that there is nothing to remember. */
static void
store(const SequenceEntry *state)
{
	uint32		set = find_set(&state->locator);
	SequenceEntry *entry;

	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	entry = find_entry(set, &state->locator);
	if (state->log_cnt == 0)
	{
		/* Nothing in store: the WAL says what the page says */
		if (entry != NULL)
			entry->used = false;
	}
	else
	{
		if (entry == NULL)
			entry = take_entry(set);
		*entry = *state;
	}
	LWLockRelease(lock_of(set));
}

/* A page is being written: note what it holds if it is a sequence's. */
void
zenith_sequence_dropped(RelFileLocator locator, const char *page)
{
	Form_pg_sequence_data data = zenith_sequence_data(page);
	SequenceEntry state;

	if (data == NULL)
		return;
	state.used = true;
	state.locator = locator;
	state.lsn = PageGetLSN((Page) page);
	state.last_value = data->last_value;
	state.log_cnt = data->log_cnt;
	state.is_called = data->is_called;
	store(&state);
}

/*
 * All pages of a database have been copied, with their LSNs: what the originals
 * have in store, the copies have, too.  What was in its default tablespace is in
 * another one now, the rest is where it was.
 */
void
zenith_sequence_copied(Oid fromDb, Oid fromSpc, Oid toDb, Oid toSpc)
{
	for (uint32 set = 0; set < SET_COUNT; set++)
	{
		for (int i = 0; i < SET_WAYS; i++)
		{
			SequenceEntry state;

			LWLockAcquire(lock_of(set), LW_SHARED);
			state = states->entries[set][i];
			LWLockRelease(lock_of(set));
			if (!state.used || state.locator.dbOid != fromDb)
				continue;
			state.locator.dbOid = toDb;
			if (state.locator.spcOid == fromSpc)
				state.locator.spcOid = toSpc;
			store(&state);
		}
	}
}

/* A page has come from the page server: put back what it had in store. */
void
zenith_sequence_restore(RelFileLocator locator, char *page)
{
	Form_pg_sequence_data data = zenith_sequence_data(page);
	SequenceEntry *entry;
	uint32		set;

	if (data == NULL)
		return;
	set = find_set(&locator);
	LWLockAcquire(lock_of(set), LW_SHARED);
	entry = find_entry(set, &locator);
	if (entry != NULL && entry->lsn == PageGetLSN((Page) page))
	{
		data->last_value = entry->last_value;
		data->log_cnt = entry->log_cnt;
		data->is_called = entry->is_called;
	}
	LWLockRelease(lock_of(set));
}

/* The relation is gone, and so is what it had in store. */
void
zenith_sequence_forget(RelFileLocator locator)
{
	uint32		set = find_set(&locator);
	SequenceEntry *entry;

	LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
	entry = find_entry(set, &locator);
	if (entry != NULL)
		entry->used = false;
	LWLockRelease(lock_of(set));
}

/* Likewise for all relations of a database in a tablespace; 0 = in any. */
void
zenith_sequence_forget_database(Oid dbOid, Oid spcOid)
{
	for (uint32 set = 0; set < SET_COUNT; set++)
	{
		LWLockAcquire(lock_of(set), LW_EXCLUSIVE);
		for (int i = 0; i < SET_WAYS; i++)
		{
			SequenceEntry *entry = &states->entries[set][i];

			if (entry->used && entry->locator.dbOid == dbOid &&
				(spcOid == InvalidOid || entry->locator.spcOid == spcOid))
				entry->used = false;
		}
		LWLockRelease(lock_of(set));
	}
}

/* Sequences that may have values in store while their page is away (palloc'd). */
RelFileLocator *
zenith_sequences_in_store(int *count)
{
	RelFileLocator *locators = palloc(sizeof(RelFileLocator) * SET_COUNT * SET_WAYS);

	*count = 0;
	for (uint32 set = 0; set < SET_COUNT; set++)
	{
		LWLockAcquire(lock_of(set), LW_SHARED);
		for (int i = 0; i < SET_WAYS; i++)
		{
			SequenceEntry *entry = &states->entries[set][i];

			if (entry->used)
				locators[(*count)++] = entry->locator;
		}
		LWLockRelease(lock_of(set));
	}
	return locators;
}
