/*-------------------------------------------------------------------------
 *
 * zenith.h
 *	  What the parts of the Zenith storage extension tell each other.
 *
 * A compute keeps permanent relations in no files: pages are read from the
 * page server, and a page that leaves the buffer pool is dropped, since the
 * WAL of its changes is durable in the safekeepers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ZENITH_H
#define ZENITH_H

#include "access/xlogdefs.h"
#include "commands/sequence.h"
#include "nodes/parsenodes.h"
#include "port/atomics.h"
#include "storage/block.h"
#include "storage/relfilelocator.h"
#include "storage/smgr.h"

/* Most blocks that one page request may ask for */
#define ZENITH_MAX_REQUEST_BLOCKS 64

/*
 * LSNs below this are markers of access methods (GiST builds), not places in
 * the WAL: no server hands out its first segment.
 */
#define ZENITH_FIRST_REAL_LSN ((XLogRecPtr) wal_segment_size)

/* settings.c */
typedef enum ZenithTransientLogging
{
	ZENITH_TRANSIENT_FRAGMENTS,
	ZENITH_TRANSIENT_IMAGES,
	ZENITH_TRANSIENT_OFF,
} ZenithTransientLogging;

typedef enum ZenithMode
{
	ZENITH_PRIMARY,				/* writes to its branch */
	ZENITH_STATIC,				/* shows one LSN */
	ZENITH_REPLICA,				/* follows its branch as a hot standby */
} ZenithMode;

extern int	zenith_mode;
extern char *zenith_tenant_id;
extern char *zenith_timeline_id;
extern XLogRecPtr zenith_start_lsn;
extern char *zenith_supervisor_address;
extern char *zenith_protected_settings;
extern char *zenith_progress_file;
extern int	zenith_max_write_lag_mb;
extern int	zenith_max_flush_lag_mb;
extern int	zenith_max_apply_lag_mb;
extern int	zenith_max_backpressure_delay_ms;
extern int	zenith_max_cluster_size_mb;
extern int	zenith_readahead_pages;
extern int	zenith_file_cache_mb;
extern int	zenith_max_database_copy_mb;
extern int	zenith_size_cache_entries;
extern int	zenith_lsn_cache_entries;
extern int	zenith_outage_timeout_s;
extern int	zenith_transient_logging;

extern void zenith_define_settings(void);
extern void zenith_check_settings(void);

/* shard_map.c: where the page servers are, and which of them has a block */
#define ZENITH_MAX_SHARDS			64
#define ZENITH_DEFAULT_STRIPE_BLOCKS 2048
#define ZENITH_MAX_STRIPE_BLOCKS	(1024 * 1024)

extern void zenith_define_shard_settings(void);
extern Size zenith_shard_map_shmem_size(void);
extern void zenith_shard_map_shmem_init(void);
extern bool zenith_shard_map_changed(void);
extern bool zenith_shard_map_follow(void);
extern bool zenith_has_pageserver(void);
extern int	zenith_shard_count(void);
extern const char *zenith_shard_connstring(int shard);
extern void zenith_shard_name(int shard, char *name, Size size);
extern PGDLLEXPORT int zenith_shard_of_stripe(RelFileNumber rel, uint32 stripe, int shards);
extern int	zenith_shard_of_block(RelFileLocator locator, ForkNumber forknum, BlockNumber block);
extern BlockNumber zenith_shard_run(ForkNumber forknum, BlockNumber block);

/* counters.c: what zenith.getpage_stats shows */
#define ZENITH_COUNTERS(X) \
	X(GETPAGE_REQUESTS, "getpage_requests", "page requests that a reader waited for") \
	X(GETPAGE_BLOCKS, "getpage_blocks", "blocks in those requests") \
	X(GETPAGE_WAIT_US, "getpage_wait_us", "microseconds that readers waited for those requests") \
	X(READAHEAD_BLOCKS, "readahead_blocks", "blocks asked for ahead of their use") \
	X(READAHEAD_HITS, "readahead_hits", "blocks used that had been asked for ahead") \
	X(READAHEAD_STALE, "readahead_stale", "blocks read ahead that changed before their use") \
	X(READAHEAD_WASTED, "readahead_wasted", "blocks read ahead that nobody used") \
	X(FILE_CACHE_HITS, "file_cache_hits", "blocks read from the local file cache") \
	X(FILE_CACHE_MISSES, "file_cache_misses", "blocks looked for there in vain") \
	X(FILE_CACHE_WRITES, "file_cache_writes", "blocks put there") \
	X(SIZE_REQUESTS, "size_requests", "relation sizes asked of the page server") \
	X(SIZE_HITS, "size_hits", "relation sizes found in the shared cache") \
	X(RECONNECTS, "reconnects", "connections to the page server that broke") \
	X(PAGES_DROPPED, "pages_dropped", "pages that left the buffer pool") \
	X(FRAGMENT_RECORDS, "fragment_records", "WAL records with transient state of dropped pages") \
	X(FRAGMENT_BYTES, "fragment_bytes", "bytes of transient state in those records") \
	X(TRANSIENT_IMAGES_COUNTER, "transient_images", "whole pages logged for their transient state") \
	X(FSM_IMAGES, "fsm_images", "free space map pages logged") \
	X(VM_IMAGES, "vm_images", "visibility map pages logged") \
	X(EXTEND_IMAGES, "extend_images", "zero pages logged when a relation grew") \
	X(REDO_SKIPPED, "redo_skipped", "changes of blocks that a standby did not replay, not having them in memory") \
	X(SIDE_PAGES_WRITTEN, "side_pages_written", "pages of index builds written to the side files") \
	X(SIDE_PAGES_READ, "side_pages_read", "pages of index builds read from the side files") \
	X(BACKPRESSURE_US, "backpressure_us", "microseconds that writers slept for the page server to keep up") \
	X(BACKPRESSURE_WAITS, "backpressure_waits", "times that a writer found the page server too far behind") \
	X(BACKPRESSURE_GIVEN_UP, "backpressure_given_up", "times that a writer went on although it was, having slept enough")

#define ZENITH_COUNTER_ID(id, name, description) ZENITH_##id,
typedef enum ZenithCounter
{
	ZENITH_COUNTERS(ZENITH_COUNTER_ID)
	ZENITH_COUNTER_COUNT,
} ZenithCounter;
#undef ZENITH_COUNTER_ID

extern Size zenith_counters_shmem_size(void);
extern void zenith_counters_shmem_init(void);
extern void zenith_count(ZenithCounter counter, uint64 amount);

/* wait events, made by the shared memory start-up */
extern uint32 zenith_wait_connect;
extern uint32 zenith_wait_page;
extern uint32 zenith_wait_size;
extern uint32 zenith_wait_readahead;
extern uint32 zenith_wait_reconnect;
extern uint32 zenith_wait_backpressure;
extern uint32 zenith_wait_cluster_size;
extern uint32 zenith_wait_replay;
extern uint32 zenith_wait_quorum;
extern uint32 zenith_wait_supervisor;

/* pageserver.c: requests and replies of the page stream */
typedef struct ZenithRequest
{
	char		tag;			/* 'N' nblocks, 'D' dbsize, 'T' tablespace, 'G' getpage */
	XLogRecPtr	request_lsn;	/* read as of this LSN; all ones = newest */
	XLogRecPtr	not_modified_since; /* an older state will not do */
	RelFileLocator locator;		/* 'D' uses dbOid only, 'T' spcOid */
	ForkNumber	forknum;
	BlockNumber block;			/* 'G' only */
	uint16		count;			/* 'G' only */
} ZenithRequest;

typedef struct ZenithReply
{
	int			shard;			/* whose reply it is */
	uint64		id;
	char		tag;			/* 'n', 'd', 't', 'g', or 'x' = error */
	XLogRecPtr	lsn;			/* the state that was read */
	uint64		value;			/* 'n' blocks, 'd' and 't' bytes */
	uint32		database_count; /* 't' */
	const char *databases;		/* 't': see zenith_reply_database() */
	BlockNumber block;			/* 'g' */
	uint16		count;			/* 'g' */
	const char *pages;			/* 'g': count pages, valid till the next call */
	int			sqlstate;		/* 'x' */
	const char *message;		/* 'x': valid till the next call */
} ZenithReply;

extern void zenith_pageserver_call(const ZenithRequest *request, ZenithReply *reply,
								   void (*then_send) (void *), void *arg);
extern uint64 zenith_pageserver_send_ahead(const ZenithRequest *request);
extern void zenith_pageserver_flush(void);
extern bool zenith_pageserver_await(int shard, uint64 id);
extern void zenith_pageserver_shutdown(void);
extern Oid	zenith_reply_database(const ZenithReply *reply, uint32 index);
extern void zenith_reply_error(const ZenithReply *reply, const char *what) pg_attribute_noreturn();

/* interrupts.c */
extern void zenith_check_interrupts(void);
extern void zenith_borrow_latch(void);
extern void zenith_return_latch(void);

/* readahead.c */
extern bool zenith_readahead_has(RelFileLocator locator, ForkNumber forknum, BlockNumber block);
extern bool zenith_readahead_take(RelFileLocator locator, ForkNumber forknum,
								  BlockNumber block, char *page, XLogRecPtr *lsn);
extern void zenith_readahead_submit(RelFileLocator locator, ForkNumber forknum,
									BlockNumber first, int count);
extern void zenith_readahead_follow(RelFileLocator locator, ForkNumber forknum,
									BlockNumber first, int count);
extern void zenith_readahead_send_many(void);
extern void zenith_readahead_receive(int shard, const ZenithReply *reply);
extern void zenith_readahead_reset(int shard);

/* lsn_bounds.c: the last-written LSN */
extern Size zenith_lsn_shmem_size(void);
extern void zenith_lsn_shmem_init(void);
extern XLogRecPtr zenith_lsn_of_block(RelFileLocator locator, ForkNumber forknum, BlockNumber block);
extern XLogRecPtr zenith_lsn_of_size(RelFileLocator locator, ForkNumber forknum);
extern void zenith_lsn_set_block(RelFileLocator locator, ForkNumber forknum,
								 BlockNumber block, XLogRecPtr lsn);
extern XLogRecPtr zenith_lsn_of_writes(RelFileLocator locator);
extern void zenith_lsn_set_writes(RelFileLocator locator, XLogRecPtr lsn);
extern void zenith_lsn_set_size(RelFileLocator locator, ForkNumber forknum, XLogRecPtr lsn);
extern void zenith_lsn_set_all_blocks(RelFileLocator locator, ForkNumber forknum, XLogRecPtr lsn);
extern PGDLLEXPORT XLogRecPtr zenith_insert_position(void);
extern XLogRecPtr zenith_shown_lsn(void);
extern void zenith_lsn_raise_all(XLogRecPtr lsn);
extern void zenith_read_range(RelFileLocator locator, ForkNumber forknum,
							  BlockNumber first, int count,
							  XLogRecPtr *request_lsn, XLogRecPtr *not_modified_since);
extern void zenith_size_range(RelFileLocator locator, ForkNumber forknum,
							  XLogRecPtr *request_lsn, XLogRecPtr *not_modified_since);
extern void zenith_flush_for_read(XLogRecPtr lsn);

/* size_cache.c */
#define ZENITH_SIZE_LOCKS 64
extern Size zenith_size_shmem_size(void);
extern void zenith_size_shmem_init(void);
extern bool zenith_size_lookup(RelFileLocator locator, ForkNumber forknum, BlockNumber *nblocks);
extern uint64 zenith_size_load_begin(RelFileLocator locator, ForkNumber forknum);
extern void zenith_size_load_end(RelFileLocator locator, ForkNumber forknum,
								 BlockNumber nblocks, uint64 version);
extern void zenith_size_set(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks);
extern void zenith_size_grow(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks);
extern void zenith_size_raise(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks);
extern void zenith_size_forget(RelFileLocator locator, ForkNumber forknum);
extern void zenith_size_forget_database(Oid dbOid);
extern bool zenith_size_usage(uint64 *used, uint64 *capacity);

/* side_file.c */
extern Size zenith_side_shmem_size(void);
extern void zenith_side_shmem_init(void);
extern bool zenith_side_active(void);
extern bool zenith_side_write(RelFileLocator locator, ForkNumber forknum,
							  BlockNumber block, const char *page);
extern bool zenith_side_read(RelFileLocator locator, ForkNumber forknum,
							 BlockNumber block, char *page);
extern void zenith_side_remove(RelFileLocator locator, ForkNumber forknum, BlockNumber block);
extern void zenith_side_truncate(RelFileLocator locator, ForkNumber forknum, BlockNumber nblocks);

/* file_cache.c */
#define ZENITH_FILE_CACHE_LOCKS 256
extern Size zenith_file_cache_shmem_size(void);
extern void zenith_file_cache_shmem_init(void);
extern bool zenith_file_cache_has(RelFileLocator locator, ForkNumber forknum, BlockNumber block);
extern bool zenith_file_cache_read(RelFileLocator locator, ForkNumber forknum,
								   BlockNumber block, char *page);
extern void zenith_file_cache_put(RelFileLocator locator, ForkNumber forknum,
								  BlockNumber block, const char *page);
extern void zenith_file_cache_put_read(RelFileLocator locator, ForkNumber forknum,
									   BlockNumber block, const char *page, XLogRecPtr lsn);
extern void zenith_file_cache_forget(RelFileLocator locator, ForkNumber forknum,
									 BlockNumber first, BlockNumber count);
extern void zenith_file_cache_forget_database(Oid dbOid);
extern bool zenith_file_cache_usage(uint64 *used, uint64 *capacity);

/* sequence_state.c */
#define ZENITH_SEQUENCE_LOCKS 16
extern Size zenith_sequence_shmem_size(void);
extern void zenith_sequence_shmem_init(void);
extern void zenith_sequence_dropped(RelFileLocator locator, const char *page);
extern void zenith_sequence_restore(RelFileLocator locator, char *page);
extern void zenith_sequence_forget(RelFileLocator locator);
extern RelFileLocator *zenith_sequences_in_store(int *count);
extern Form_pg_sequence_data zenith_sequence_data(const char *page);

/* init_forks.c */
extern void zenith_init_fork_grown(RelFileLocator locator);
extern void zenith_init_forks_register(void);

/* shutdown_state.c */
extern void zenith_shutdown_worker_register(void);
extern void zenith_sequence_forget_database(Oid dbOid, Oid spcOid);
extern void zenith_sequence_copied(Oid fromDb, Oid fromSpc, Oid toDb, Oid toSpc);

/* transient_state.c */
extern XLogRecPtr zenith_log_transient_state(RelFileLocator locator, ForkNumber forknum,
											 BlockNumber block, const char *page,
											 bool certain_only);

/* page_drop.c: what must be kept of pages that leave the buffer pool */
extern void zenith_page_dropped(RelFileLocator locator, ForkNumber forknum,
								BlockNumber block, const char *page);
extern void zenith_page_added(RelFileLocator locator, ForkNumber forknum,
							  BlockNumber block, const char *page);
extern void zenith_zero_pages_added(RelFileLocator locator, ForkNumber forknum,
									BlockNumber first, int count);

/* network_smgr.c */
extern void zenith_smgr_register(void);
extern PGDLLEXPORT void zenith_read_pages_at_lsn(RelFileLocator locator, ForkNumber forknum,
												 BlockNumber first, int count,
												 XLogRecPtr request_lsn,
												 XLogRecPtr not_modified_since, char *pages);

/* aux_files.c: files that must outlive the compute */
extern bool zenith_aux_file_permitted(void);
extern XLogRecPtr zenith_aux_file_put(const char *path, const char *data, Size size);
extern XLogRecPtr zenith_aux_file_delete(const char *path);
extern void zenith_aux_file_wait(XLogRecPtr lsn);
extern XLogRecPtr zenith_quorum_lsn(void);

/* replication_state.c */
extern void zenith_replication_state_register(void);

/* progress.c: how far the page server is */
typedef enum ZenithPosition
{
	ZENITH_RECEIVED,			/* in its memory */
	ZENITH_ON_DISK,
	ZENITH_IN_OBJECT_STORAGE,
} ZenithPosition;
#define ZENITH_POSITION_COUNT 3

extern void zenith_progress_startup(void);
extern void zenith_progress(XLogRecPtr lsns[ZENITH_POSITION_COUNT]);
extern bool zenith_progress_size(uint64 *bytes, XLogRecPtr *as_of);
extern void zenith_progress_slept(uint64 microseconds);
extern void zenith_progress_holds_up(bool yes);

/* backpressure.c */
extern Size zenith_backpressure_shmem_size(void);
extern void zenith_backpressure_shmem_init(void);
extern void zenith_backpressure_register(void);
extern void zenith_backpressure(void);
extern uint64 zenith_apply_lag(void);

/* cluster_limit.c */
extern bool zenith_cluster_limit_enter(const Node *statement);
extern void zenith_cluster_limit_leave(void);
extern void zenith_cluster_limit_check(RelFileLocator locator, int blocks);
extern void zenith_cluster_limit_check_copy(int64 bytes);

/* supervisor.c */
extern int	zenith_supervisor_post(const char *path, char **text);

/* system_settings.c: ALTER SYSTEM */
struct AlterSystemStmt;
extern void zenith_system_settings_check(struct AlterSystemStmt *statement);
extern void zenith_system_settings_keep(void);

/* status.c */
extern bool zenith_proposer_positions(XLogRecPtr *quorum, XLogRecPtr *pageserver);

/* tablespaces.c */
extern bool zenith_tablespace_is_in_place(CreateTableSpaceStmt *statement);
extern void zenith_tablespace_refresh(Oid spcOid);
extern void zenith_tablespace_use(RelFileLocator locator);
extern int64 zenith_tablespace_size(Oid spcOid);
extern int64 zenith_database_size(Oid dbOid);

/* database_copies.c */
extern void zenith_database_copies_register(void);
extern void zenith_database_copy_begin(Oid fromDb, Oid toSpc, bool moving);
extern void zenith_database_copy_end(bool done);
extern void zenith_database_dropped(Oid dbOid);

/* standby.c */
extern void zenith_standby_register(void);
extern XLogRecPtr zenith_replay_position(void);
extern void zenith_wait_for_replay(XLogRecPtr lsn);
extern BlockNumber zenith_count_in_buffers(RelFileLocator locator, ForkNumber forknum,
										  BlockNumber nblocks);

/* utility_guard.c */
extern void zenith_utility_guard_register(void);

#endif							/* ZENITH_H */
