/*-------------------------------------------------------------------------
 *
 * address.c
 *	  Where the page server is, followed in the middle of a query.
 *
 * A backend takes new settings between two commands only, but a tenant that
 * moves to another page server must not break the query that is running.  So
 * the checkpointer, which takes them at once whatever else goes on, puts
 * zenith.pageserver_connstring into shared memory; backends look there before
 * each request, and while they wait for a reply.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "zenith.h"

#define MAX_ADDRESS 8192

typedef struct SharedAddress
{
	slock_t		lock;
	/* counts the changes since the server has started */
	pg_atomic_uint32 version;
	char		connstring[MAX_ADDRESS];
} SharedAddress;

static SharedAddress *shared = NULL;
static uint32 seen_version = 0;

Size
zenith_address_shmem_size(void)
{
	return sizeof(SharedAddress);
}

void
zenith_address_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("zenith page server address", sizeof(SharedAddress), &found);
	if (found)
		return;
	SpinLockInit(&shared->lock);
	pg_atomic_init_u32(&shared->version, 0);
	shared->connstring[0] = '\0';
}

/* The checkpointer has read its settings: tell the others. */
void
zenith_address_share(const char *connstring)
{
	size_t		size = strlen(connstring) + 1;

	if (shared == NULL || MyBackendType != B_CHECKPOINTER)
		return;
	if (size > MAX_ADDRESS)
	{
		ereport(LOG,
				(errmsg("zenith.pageserver_connstring is too long to be followed by running queries")));
		return;
	}
	SpinLockAcquire(&shared->lock);
	memcpy(shared->connstring, connstring, size);
	SpinLockRelease(&shared->lock);
	pg_atomic_fetch_add_u32(&shared->version, 1);
}

/* Is there an address that zenith_address_follow() hasn't taken yet? */
bool
zenith_address_changed(void)
{
	return shared != NULL && pg_atomic_read_u32(&shared->version) != seen_version;
}

/* Take what the checkpointer has read, if that is news. */
void
zenith_address_follow(void)
{
	char		connstring[MAX_ADDRESS];

	if (!zenith_address_changed())
		return;
	/* read before the text: a text that is newer is taken once more */
	seen_version = pg_atomic_read_u32(&shared->version);
	pg_read_barrier();
	SpinLockAcquire(&shared->lock);
	memcpy(connstring, shared->connstring, MAX_ADDRESS);
	SpinLockRelease(&shared->lock);
	zenith_use_connstring(connstring);
}
