/**
 * Imported first by main.ts: Node's pool for file operations has four threads unless told before its
 * first use. Each timeline that is written to keeps one busy, and nobody should wait for another.
 */
process.env['UV_THREADPOOL_SIZE'] ??= '16'
