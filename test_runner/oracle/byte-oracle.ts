/**
 * The byte oracle: after any work on a compute, is every page that the pageserver gives the right
 * one? docs/byte-oracle.md says what is compared with what, and which bytes do not count.
 *
 *   the pageserver's full backup at the last checkpoint   =  stock Postgres that replayed the WAL
 *   the same backup: SLRUs, relation maps, two-phase files =  the compute's own files
 *   the same backup: lengths of forks                      =  those that the compute sees
 *   the pageserver's newest pages                          =  the compute's buffers
 */
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { callPageserver } from '#libs/api/pageserver.ts'
import { errorMessage } from '#libs/errors.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { connectPgWire } from '#libs/pgwire/client.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { giveTo } from '#libs/system-user.ts'
import type { Compute } from '../fixtures/compute.ts'
import type { Installation } from '../fixtures/installation.ts'
import { compareBuffers } from './buffer-diff.ts'
import { ByteReport, type Difference } from './byte-report.ts'
import { compareFolders, FORK_KINDS } from './folder-diff.ts'
import { compareSizes } from './size-diff.ts'
import { compareSmallFiles, copySmallFiles, type Folders } from './small-files.ts'
import { StockCopy } from './stock-copy.ts'
import { linkSegments, walFolder } from './wal-folder.ts'

/** Differences whose WAL is shown. */
const EXPLAINED = 5
const RECORDS_SHOWN = 20
const QUIET_ATTEMPTS = 20
const IDLE_TIMEOUT_MS = 120_000
/** Bytes of WAL that a checkpoint itself writes: its redo record, running transactions, itself. */
const CHECKPOINT_SLACK = 1024

/** What a run has left: its result, and the folders that were compared, until it is disposed of. */
export interface ByteOracleRun extends Disposable {
  readonly report: ByteReport
  readonly folders: Folders
}

/**
 * Compares everything. The compute must run on a branch that initdb began (not one made from
 * another branch), and nobody else should be working on it. Makes a checkpoint and, in the database
 * `postgres`, the extension `zenith_test_utils`.
 */
export async function byteOracle(zenith: Installation, compute: Compute): Promise<ByteOracleRun> {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-bytes-'))
  giveTo(dir)
  const dispose = (): void => rmSync(dir, { recursive: true, force: true })
  const client = await compute.connect()
  try {
    await client.query('CREATE EXTENSION IF NOT EXISTS zenith_test_utils')
    const localFiles = join(dir, 'compute')
    await setAutovacuum(client, false)
    const report = new ByteReport(await quietCheckpoint(compute, localFiles))
    const sides = new Sides(zenith, compute, dir, report)
    const ours = await report.timed('backup', () => sides.fetchBackup())
    compareSmallFiles('local files', { ours, theirs: localFiles }, report)
    await report.timed('sizes', () => compareSizes(compute, ours, report))
    await report.timed('buffers', () => compareBuffers(client, report))
    const theirs = await report.timed('replay', () => sides.replayWithStock())
    await report.timed('compare', async () => compareFolders({ ours, theirs }, report))
    sides.explain(report.differences.slice(0, EXPLAINED))
    await setAutovacuum(client, true)
    return { report, folders: { ours, theirs }, [Symbol.dispose]: dispose }
  } catch (error) {
    dispose()
    throw error
  } finally {
    await client.end()
  }
}

/** Makes both sides of the comparison in a folder of their own. */
class Sides {
  readonly #zenith: Installation
  readonly #compute: Compute
  readonly #dir: string
  readonly #report: ByteReport
  #startLsn: Lsn = 0
  #walDir = ''

  constructor(zenith: Installation, compute: Compute, dir: string, report: ByteReport) {
    this.#zenith = zenith
    this.#compute = compute
    this.#dir = dir
    this.#report = report
  }

  async fetchBackup(): Promise<string> {
    const folder = join(this.#dir, 'pageserver')
    const { tenantId, timelineId } = this.#compute.spec
    const lsn = formatLsn(this.#report.lsn)
    await callPageserver(this.#zenith.pageserverUrl, 'waitLsn', {
      params: { tenantId, timelineId },
      body: { lsn, timeoutMs: 60_000 },
    })
    await unpackBackup({
      port: this.#zenith.pageserverNode.pgPort,
      query: `fullbackup ${tenantId} ${timelineId} ${lsn}`,
      folder,
    })
    return folder
  }

  async replayWithStock(): Promise<string> {
    const { tenantId, timelineId } = this.#compute.spec
    const params = { tenantId, timelineId }
    const timeline = await callPageserver(this.#zenith.pageserverUrl, 'getTimeline', { params })
    if (timeline.ancestorTimelineId !== undefined) {
      throw new Error('the byte oracle needs a branch that does not come from another one')
    }
    this.#startLsn = parseLsn(timeline.startLsn)
    this.#walDir = walFolder(join(this.#zenith.dir, 'safekeepers'), timelineId)
    const stock = await StockCopy.create({
      dir: this.#dir,
      pagePort: this.#zenith.pageserverNode.pgPort,
      tenantId,
      timelineId,
      startLsn: this.#startLsn,
      pageserverDir: join(this.#zenith.dir, 'pageserver'),
    })
    return await stock.at(this.#report.lsn, this.#walDir)
  }

  /** Adds to each difference of a page the records that touch it. */
  explain(differences: readonly Difference[]): void {
    if (differences.length === 0) return
    const folder = join(this.#dir, 'wal')
    linkSegments(this.#walDir, folder)
    const wal = { folder, startLsn: this.#startLsn, endLsn: this.#report.lsn }
    for (const difference of differences) {
      if (difference.page === undefined) continue
      const records = recordsOf(wal, difference.page)
      difference.what += `\n${records.map((line) => `      ${line}`).join('\n')}`
    }
  }
}

async function unpackBackup(options: {
  port: number
  query: string
  folder: string
}): Promise<void> {
  mkdirSync(options.folder, { recursive: true, mode: 0o700 })
  const client = await connectPgWire({ port: options.port })
  const tar = spawn('tar', ['-x', '-C', options.folder], { stdio: ['pipe', 'inherit', 'inherit'] })
  const unpacked = new Promise<number | null>((resolve) => tar.once('exit', resolve))
  await pipeline(Readable.from(client.copyOut(options.query)), tar.stdin)
  await client.close()
  if ((await unpacked) !== 0) throw new Error('tar could not unpack the full backup')
}

/**
 * A checkpoint after which nothing was written, and copies of the compute's small files as it left
 * them.
 */
async function quietCheckpoint(compute: Compute, copyTo: string): Promise<Lsn> {
  const client = await compute.connect()
  try {
    for (let attempt = 0; attempt < QUIET_ATTEMPTS; attempt++) {
      await othersAreIdle(client)
      const before = await insertLsn(client)
      await client.query('CHECKPOINT')
      const { rows } = await client.query(
        'SELECT checkpoint_lsn, redo_lsn FROM pg_control_checkpoint()',
      )
      const { checkpoint_lsn: lsn, redo_lsn: redo } = rows[0] as Record<string, string>
      const after = await insertLsn(client)
      rmSync(copyTo, { recursive: true, force: true })
      copySmallFiles(compute.dataFolder, copyTo)
      const checkpointLsn = parseLsn(lsn as string)
      const quiet =
        parseLsn(redo as string) - before <= CHECKPOINT_SLACK &&
        checkpointLsn - parseLsn(redo as string) <= CHECKPOINT_SLACK &&
        after - checkpointLsn <= CHECKPOINT_SLACK &&
        (await insertLsn(client)) === after
      if (quiet) return checkpointLsn
    }
  } finally {
    await client.end()
  }
  throw new Error('the compute did not come to rest: something writes all the time')
}

/** Autovacuum would change sizes while they are compared; a worker that runs already ends its work. */
async function setAutovacuum(client: pg.Client, on: boolean): Promise<void> {
  await client.query(on ? 'ALTER SYSTEM RESET autovacuum' : 'ALTER SYSTEM SET autovacuum = off')
  await client.query('SELECT pg_reload_conf()')
}

/** Waits until no autovacuum worker and no other client is at work. */
async function othersAreIdle(client: pg.Client): Promise<void> {
  const deadline = Date.now() + IDLE_TIMEOUT_MS
  while (true) {
    const { rows } = await client.query(
      `SELECT pid, backend_type, query FROM pg_stat_activity
       WHERE pid <> pg_backend_pid() AND
         (backend_type = 'autovacuum worker' OR backend_type = 'client backend' AND state <> 'idle')`,
    )
    if (rows.length === 0) return
    if (Date.now() > deadline) throw new Error(`still at work: ${JSON.stringify(rows)}`)
    await sleep(200)
  }
}

async function insertLsn(client: pg.Client): Promise<Lsn> {
  const { rows } = await client.query('SELECT pg_current_wal_insert_lsn() AS lsn')
  return parseLsn((rows[0] as { lsn: string }).lsn)
}

/** What pg_waldump says of a page, the last records only. */
function recordsOf(
  wal: { folder: string; startLsn: Lsn; endLsn: Lsn },
  page: NonNullable<Difference['page']>,
): string[] {
  try {
    const output = execFileSync(
      findPostgres().bin('pg_waldump'),
      [
        ...['-p', wal.folder, '-s', formatLsn(wal.startLsn), '-e', formatLsn(wal.endLsn)],
        ...['-R', `${page.spc}/${page.db}/${page.rel}`],
        ...['-F', FORK_KINDS[page.fork] as string, '-B', String(page.block)],
      ],
      { encoding: 'utf8', maxBuffer: 1 << 28, stdio: ['ignore', 'pipe', 'pipe'] },
    )
    return output.trim().split('\n').slice(-RECORDS_SHOWN)
  } catch (error) {
    return [`(pg_waldump: ${errorMessage(error)})`]
  }
}
