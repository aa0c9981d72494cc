/**
 * Imported first by main.ts of services that sync files: Node's pool for file operations has four
 * threads unless told before its first use, all workers of the process share it, and a sync of a
 * large file keeps one busy. Nobody should wait for another's.
 */
process.env['UV_THREADPOOL_SIZE'] ??= '16'
