/* pgxn/zenith/zenith--1.1--1.2.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION zenith UPDATE TO '1.2'" to load this file. \quit

CREATE FUNCTION backpressure_status(
	OUT "position" text, OUT lsn pg_lsn, OUT lag bigint, OUT allowed_lag bigint, OUT exceeded boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'zenith_backpressure_status'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION backpressure_status() IS 'how far the page server is behind this compute, in bytes, and how far it may be before writers are slowed down';

CREATE VIEW backpressure_status AS SELECT * FROM backpressure_status();

COMMENT ON VIEW backpressure_status IS 'what slows writers down, as backpressure_status() tells it';

REVOKE ALL ON FUNCTION backpressure_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION backpressure_status() TO pg_monitor;
GRANT SELECT ON backpressure_status TO pg_monitor;
