/**
 * A base, the WAL that follows it, and the files that stock Postgres' own recovery makes of both:
 * what redo of single pages must reproduce byte for byte.
 */
import { cpSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseControlFile } from '#libs/pg/control-file.ts'
import { giveTo } from '#libs/system-user.ts'
import type { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { PRELUDE, WORKLOAD } from './access-method-workload.ts'
import { listRelationFiles, type RelationFile } from './relation-files.ts'
import { replayWithStock } from './stock-replay.ts'
import { readWalHistory, type WalHistory } from './wal-history.ts'

export type RedoScenario = {
  history: WalHistory
  /** Files before the WAL, and after stock Postgres replayed all of it. */
  before: Map<string, RelationFile>
  after: Map<string, RelationFile>
}

/** Runs the access-method workload on `server`, which must be fresh and started. */
export async function makeRedoScenario(server: VanillaPostgres): Promise<RedoScenario> {
  await runStatements(server, PRELUDE)
  await server.stop()
  const baseDir = join(server.dir, 'base')
  const replayDir = join(server.dir, 'replayed')
  copyTree(server.dataDir, baseDir)
  const startLsn = checkpointLsn(baseDir)

  await server.start()
  await runStatements(server, WORKLOAD)
  await server.stop()
  copyTree(baseDir, replayDir)
  const walDir = join(server.dataDir, 'pg_wal')
  for (const name of readdirSync(walDir)) {
    if (/^[0-9A-F]{24}$/.test(name)) cpSync(join(walDir, name), join(replayDir, 'pg_wal', name))
  }
  await replayWithStock({ dataDir: replayDir, checkpointLsn: checkpointLsn(server.dataDir) })
  return {
    history: readWalHistory(walDir, startLsn),
    before: listRelationFiles(baseDir),
    after: listRelationFiles(replayDir),
  }
}

/** Start of the last checkpoint record. */
export function checkpointLsn(dataDir: string): number {
  return parseControlFile(readFileSync(join(dataDir, 'global', 'pg_control'))).checkpointLsn
}

export async function runStatements(
  server: { connect(): Promise<{ query(sql: string): Promise<unknown>; end(): Promise<void> }> },
  statements: readonly string[],
): Promise<void> {
  const client = await server.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}

function copyTree(from: string, to: string): void {
  cpSync(from, to, { recursive: true, preserveTimestamps: true })
  giveTo(to)
}
