/**
 * Replays WAL with stock Postgres up to a checkpoint record and stops it there, so that its files
 * are exactly the state at that record: the truth that pages are compared with.
 *
 * Nobody connects and hot standby is off, so nothing but redo has touched the pages. At the stop a
 * restartpoint writes all of them, which Postgres does only when a checkpoint was replayed.
 */
import { spawn } from 'node:child_process'
import { appendFileSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { giveTo, runAs } from '#libs/system-user.ts'

const SETTINGS = [
  'hot_standby = off',
  // One pass: everything is written at the end.
  'shared_buffers = 512MB',
  'max_wal_size = 1TB',
  'checkpoint_timeout = 1d',
  'allow_in_place_tablespaces = on',
  "listen_addresses = ''",
  'fsync = off',
  'recovery_prefetch = off',
  'autovacuum = off',
  "shared_preload_libraries = ''",
  "synchronous_standby_names = ''",
  // All WAL is in pg_wal: when it ends too early, recovery fails instead of waiting for more.
  "restore_command = 'false'",
  'recovery_target_action = shutdown',
  'recovery_target_inclusive = on',
  'recovery_target_timeline = current',
]

export type ReplayOptions = {
  /** A data folder of a stopped server, with the WAL to replay in its pg_wal. */
  dataDir: string
  /** Start of the checkpoint record to stop after. */
  checkpointLsn: Lsn
  timeoutMs?: number
}

/** Throws with the server's log if the replay does not end at the checkpoint. */
export async function replayWithStock(options: ReplayOptions): Promise<void> {
  const { dataDir, checkpointLsn } = options
  const logPath = `${dataDir}.replay.log`
  const settings = [
    ...SETTINGS,
    `unix_socket_directories = '${dataDir}'`,
    `recovery_target_lsn = '${formatLsn(checkpointLsn)}'`,
  ]
  appendFileSync(join(dataDir, 'postgresql.conf'), `${settings.join('\n')}\n`)
  writeFileSync(join(dataDir, 'recovery.signal'), '')
  giveTo(dataDir)
  const log = openSync(logPath, 'a')
  const child = spawn(findPostgres().bin('postgres'), ['-D', dataDir], {
    stdio: ['ignore', log, log],
    cwd: '/',
    ...runAs(),
  })
  const timer = setTimeout(() => child.kill('SIGQUIT'), options.timeoutMs ?? 300_000)
  await new Promise<void>((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', () => resolve())
  })
  clearTimeout(timer)
  const text = readFileSync(logPath, 'utf8')
  const done =
    text.includes('shutdown at recovery target') && text.includes('database system is shut down')
  if (!done) throw new Error(`stock replay to ${formatLsn(checkpointLsn)} failed:\n${text}`)
}
