/* pgxn/zenith_test_utils/zenith_test_utils--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION zenith_test_utils" to load this file. \quit

CREATE FUNCTION clear_buffer_cache() RETURNS bigint
AS 'MODULE_PATHNAME', 'clear_buffer_cache'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION clear_buffer_cache() FROM PUBLIC;

CREATE FUNCTION get_raw_page_at_lsn(
	tablespace oid, database oid, relfilenode oid, fork text, block bigint,
	request_lsn pg_lsn DEFAULT NULL, not_modified_since pg_lsn DEFAULT NULL)
RETURNS bytea
AS 'MODULE_PATHNAME', 'get_raw_page_at_lsn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION get_raw_page_at_lsn(oid, oid, oid, text, bigint, pg_lsn, pg_lsn) FROM PUBLIC;

CREATE FUNCTION mask_pages(first_block bigint, pages bytea) RETURNS bytea
AS 'MODULE_PATHNAME', 'mask_pages'
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION compare_buffers(
	OUT tablespace oid, OUT database oid, OUT relfilenode oid, OUT fork text, OUT block bigint,
	OUT verdict text, OUT first_difference integer,
	OUT buffer_lsn pg_lsn, OUT pageserver_lsn pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'compare_buffers'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION compare_buffers() FROM PUBLIC;

CREATE FUNCTION scribble_on_buffer(relation regclass, fork text, block bigint, byte integer)
RETURNS void
AS 'MODULE_PATHNAME', 'scribble_on_buffer'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION scribble_on_buffer(regclass, text, bigint, integer) FROM PUBLIC;

CREATE FUNCTION shard_of_stripe(relfilenode oid, stripe bigint, shards integer) RETURNS integer
AS 'MODULE_PATHNAME', 'shard_of_stripe'
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE;
