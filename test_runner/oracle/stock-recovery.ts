/**
 * What stock Postgres makes of WAL: a copy of a stopped server's folder recovers up to an LSN, is
 * promoted there, and is stopped again. Its pg_control then has the counters as of that LSN, and
 * its files the SLRU pages and relations, for nothing ran on it in between.
 *
 * Promotion is what makes any LSN possible; a mere replay writes its state out at checkpoints only.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  formatLsn,
  type Lsn,
  parseSegmentFileName,
  segmentFileName,
  WAL_SEGMENT_SIZE,
} from '#libs/lsn.ts'
import { type ControlFile, parseControlFile } from '#libs/pg/control-file.ts'
import { giveTo } from '#libs/system-user.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

export interface RecoveryOptions {
  /** Folder of a cleanly stopped server; it is copied. */
  baseDir: string
  /** pg_wal of the server that went on from there, or built WAL. */
  wal: string | { startLsn: Lsn; bytes: Buffer }
  /** Records that end at or below it are replayed; without it, all there are. */
  untilLsn?: Lsn
  settings?: Record<string, string>
}

export interface Recovered extends AsyncDisposable {
  dataDir: string
  control: ControlFile
  log: string
}

/** Throws with the server's log when recovery does not come to its end. */
export async function recoverWithStock(options: RecoveryOptions): Promise<Recovered> {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-recovery-'))
  giveTo(dir)
  const dataDir = join(dir, 'pgdata')
  cpSync(options.baseDir, dataDir, { recursive: true })
  placeWal(join(dataDir, 'pg_wal'), options.wal)
  writeFileSync(join(dataDir, 'recovery.signal'), '')
  giveTo(dataDir)
  await using server = await VanillaPostgres.create({
    dataDir,
    settings: {
      hot_standby: 'off',
      autovacuum: 'off',
      fsync: 'off',
      // Reading ahead, Postgres confuses two abandoned records that lie close together.
      recovery_prefetch: 'off',
      restore_command: "'false'",
      recovery_target_timeline: 'current',
      ...(options.untilLsn === undefined
        ? {}
        : {
            // Not inclusive: stops before the first record that starts there.
            recovery_target_lsn: `'${formatLsn(options.untilLsn)}'`,
            recovery_target_inclusive: 'off',
            recovery_target_action: 'promote',
          }),
      ...options.settings,
    },
  })
  await server.start()
  await server.stop()
  return {
    dataDir,
    control: parseControlFile(readFileSync(join(dataDir, 'global', 'pg_control'))),
    log: server.logTail(200),
    [Symbol.asyncDispose]: () => {
      rmSync(dir, { recursive: true, force: true })
      return Promise.resolve()
    },
  }
}

function placeWal(target: string, wal: RecoveryOptions['wal']): void {
  if (typeof wal === 'string') {
    for (const name of readdirSync(wal)) {
      if (parseSegmentFileName(name) !== null) cpSync(join(wal, name), join(target, name))
    }
    return
  }
  const endLsn = wal.startLsn + wal.bytes.length
  const first = Math.floor(wal.startLsn / WAL_SEGMENT_SIZE)
  for (let segment = first; segment * WAL_SEGMENT_SIZE < endLsn; segment += 1) {
    const path = join(target, segmentFileName(1, segment))
    const segmentLsn = segment * WAL_SEGMENT_SIZE
    const bytes = Buffer.alloc(WAL_SEGMENT_SIZE)
    // Before the built WAL stays what the server wrote; behind it nothing may be left.
    if (segmentLsn < wal.startLsn) {
      readFileSync(path).copy(bytes, 0, 0, wal.startLsn - segmentLsn)
    }
    const from = Math.max(segmentLsn, wal.startLsn)
    wal.bytes.copy(bytes, from - segmentLsn, from - wal.startLsn)
    writeFileSync(path, bytes)
  }
  for (const name of readdirSync(target)) {
    const parsed = parseSegmentFileName(name)
    if (parsed !== null && parsed.segment * WAL_SEGMENT_SIZE >= endLsn) rmSync(join(target, name))
  }
}
