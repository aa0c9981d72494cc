/* pgxn/zenith/zenith--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION zenith" to load this file. \quit

CREATE FUNCTION getpage_stats(OUT name text, OUT value bigint, OUT description text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'zenith_getpage_stats'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION getpage_stats() IS 'what this compute asked of the page server, and what it logged for it, since it started';

CREATE FUNCTION getpage_stats_reset() RETURNS void
AS 'MODULE_PATHNAME', 'zenith_getpage_stats_reset'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

REVOKE ALL ON FUNCTION getpage_stats_reset() FROM PUBLIC;

CREATE VIEW getpage_stats AS SELECT name, value, description FROM getpage_stats();

GRANT USAGE ON SCHEMA @extschema@ TO PUBLIC;
GRANT SELECT ON getpage_stats TO PUBLIC;

CREATE FUNCTION last_written_lsn(relation regclass, fork text DEFAULT 'main', block bigint DEFAULT NULL)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'zenith_last_written_lsn'
LANGUAGE C VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION last_written_lsn(regclass, text, bigint) IS 'how new a block, or the size of a fork, must be when it is read';

CREATE FUNCTION replication_apply_lag() RETURNS bigint
AS 'MODULE_PATHNAME', 'zenith_replication_apply_lag'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION replication_apply_lag() IS 'bytes of WAL that the page server has still to make durable';
