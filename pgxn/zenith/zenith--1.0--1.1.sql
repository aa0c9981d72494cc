/* pgxn/zenith/zenith--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION zenith UPDATE TO '1.1'" to load this file. \quit

-- Where the WAL is

CREATE FUNCTION wal_status(
	OUT insert_lsn pg_lsn, OUT flush_lsn pg_lsn, OUT quorum_lsn pg_lsn, OUT pageserver_lsn pg_lsn,
	OUT replay_lsn pg_lsn, OUT quorum_lag bigint, OUT pageserver_lag bigint)
RETURNS record
AS 'MODULE_PATHNAME', 'zenith_wal_status'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION wal_status() IS 'how far WAL has been written, made durable by the safekeepers, and made durable by the page server; lags in bytes';

CREATE VIEW wal_status AS SELECT * FROM wal_status();

COMMENT ON VIEW wal_status IS 'places in the WAL, as wal_status() tells them';

-- Caches

CREATE FUNCTION cache_usage(OUT cache text, OUT used bigint, OUT capacity bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'zenith_cache_usage'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION cache_usage() IS 'entries in use, and room for entries, of the caches that all sessions share';

CREATE VIEW cache_status AS
SELECT u.cache, u.used, u.capacity, c.hits, c.misses,
	CASE WHEN c.hits + c.misses > 0
		THEN round(c.hits::numeric / (c.hits + c.misses), 4) END AS hit_ratio
FROM cache_usage() u
CROSS JOIN LATERAL (
	SELECT coalesce(sum(s.value) FILTER (WHERE s.name = CASE u.cache
			WHEN 'pages' THEN 'file_cache_hits' ELSE 'size_hits' END), 0)::bigint AS hits,
		coalesce(sum(s.value) FILTER (WHERE s.name = CASE u.cache
			WHEN 'pages' THEN 'file_cache_misses' ELSE 'size_requests' END), 0)::bigint AS misses
	FROM getpage_stats() s) c;

COMMENT ON VIEW cache_status IS 'the cache of pages in a local file and that of relation sizes: use, hits and misses since the start';

CREATE VIEW readahead_status AS
SELECT v.requested, v.used, v.stale, v.wasted,
	CASE WHEN v.requested > 0 THEN round(v.used::numeric / v.requested, 4) END AS use_ratio
FROM (
	SELECT sum(value) FILTER (WHERE name = 'readahead_blocks')::bigint AS requested,
		sum(value) FILTER (WHERE name = 'readahead_hits')::bigint AS used,
		sum(value) FILTER (WHERE name = 'readahead_stale')::bigint AS stale,
		sum(value) FILTER (WHERE name = 'readahead_wasted')::bigint AS wasted
	FROM getpage_stats()) v;

COMMENT ON VIEW readahead_status IS 'blocks asked for ahead of their use since the start, and what became of them';

-- The compute and its branch

CREATE VIEW compute_info AS
SELECT current_setting('zenith.tenant_id') AS tenant_id,
	current_setting('zenith.timeline_id') AS timeline_id,
	current_setting('zenith.mode') AS mode,
	nullif(current_setting('zenith.start_lsn'), '')::pg_lsn AS start_lsn,
	pg_postmaster_start_time() AS started_at;

COMMENT ON VIEW compute_info IS 'what this compute serves, and since when';

CREATE FUNCTION cluster_size() RETURNS bigint
LANGUAGE sql STRICT VOLATILE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(sum(pg_tablespace_size(oid)), 0)::bigint FROM pg_tablespace $$;

COMMENT ON FUNCTION cluster_size() IS 'bytes of all relations of all databases, as of now, without the history that the page server keeps';

-- Counters and positions are for those who watch the server, the rest is for everybody

REVOKE ALL ON FUNCTION getpage_stats() FROM PUBLIC;
REVOKE ALL ON getpage_stats FROM PUBLIC;
REVOKE ALL ON FUNCTION wal_status(), cache_usage(), cluster_size(), replication_apply_lag() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION getpage_stats(), wal_status(), cache_usage(), cluster_size(), replication_apply_lag() TO pg_monitor;
GRANT SELECT ON getpage_stats, wal_status, cache_status, readahead_status TO pg_monitor;
GRANT SELECT ON compute_info TO PUBLIC;

COMMENT ON FUNCTION getpage_stats_reset() IS 'sets the counters of getpage_stats to zero';
COMMENT ON VIEW getpage_stats IS 'what this compute asked of the page server, and what it logged for it, since it started';
