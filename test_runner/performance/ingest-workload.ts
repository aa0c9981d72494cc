/**
 * WAL ingest alone: the WAL of pgbench by stock Postgres goes through decoder, open layer, flush and
 * upload of a real timeline, in one thread but for compression. First without page images, as
 * computes write it; then TPC-B with them, as a stock server does from each checkpoint on. After that
 * TPC-B once more with the flush in its thread, as in a page server, and the bare loop of decode and copy.
 */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { createLogger } from '#libs/log.ts'
import {
  formatLsn,
  type Lsn,
  parseLsn,
  segmentFileName,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
} from '#libs/lsn.ts'
import { openObjectStore } from '#libs/object-store/open-store.ts'
import { parseControlFile } from '#libs/pg/control-file.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { RecordFramer } from '#libs/wal/record-framer.ts'
import { importDataFolder, importLsn } from '../../pageserver/import/data-folder-import.ts'
import { applyNativeOp } from '../../pageserver/ingest/native-op.ts'
import { WalIngest } from '../../pageserver/ingest/wal-ingest.ts'
import { OpenLayer } from '../../pageserver/layers/open-layer.ts'
import { RedoPool } from '../../pageserver/redo/redo-pool.ts'
import { TenantManager } from '../../pageserver/tenants/tenant-manager.ts'
import { FlushThread } from '../../pageserver/threads/flush-thread.ts'
import type { DeltaFiles } from '../../pageserver/timeline/delta-writer.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import type { StorageLimits } from '../../pageserver/timeline/storage-context.ts'
import type { Timeline } from '../../pageserver/timeline/timeline.ts'
import { initialise, pgbench } from './pgbench.ts'
import type { Report } from './report.ts'
import { type Elapsed, timed } from './stopwatch.ts'

const CHUNK_BYTES = 128 * 1024

export interface IngestedTimeline {
  manager: TenantManager
  timeline: Timeline
}

export interface IngestSizes {
  scale: number
  seconds: number
  limits?: Partial<StorageLimits>
}

/**
 * Makes the WAL, then feeds it as a safekeeper would; MB of WAL per second. What is durable at the
 * end of each phase is what was fed in it. `after` goes on with the timeline.
 */
export async function measureIngest(
  sizes: IngestSizes,
  report: Report,
  after?: (ingested: IngestedTimeline) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-ingest-'))
  const log = createLogger('ingest')
  const redo = new RedoPool({
    postgresPrefix: findPostgres().prefix,
    workDir: join(dir, 'redo'),
    log,
    maxProcesses: 1,
  })
  try {
    await using stock = await VanillaPostgres.create({
      settings: { full_page_writes: 'off', max_wal_size: '64GB', wal_keep_size: "'64GB'" },
    })
    // The start of the timeline is a stopped cluster; its WAL begins right there.
    const base = join(dir, 'base')
    cpSync(stock.dataDir, base, { recursive: true, filter: (path) => !path.endsWith('/pg_wal') })
    const control = parseControlFile(readFileSync(join(base, 'global', 'pg_control')))
    const startLsn = importLsn(control)
    await stock.start()
    await initialise(stock.address(), sizes.scale)
    await stock.query('CHECKPOINT')
    const [middle] = await stock.query('SELECT pg_current_wal_flush_lsn()::text AS lsn')
    const tpcb = { script: 'tpcb', clients: 8, seconds: sizes.seconds * 2 } as const
    await pgbench(stock.address(), tpcb)
    const [end] = await stock.query('SELECT pg_switch_wal()::text AS lsn')
    await stock.query('ALTER SYSTEM SET full_page_writes = on')
    await stock.query('SELECT pg_reload_conf()')
    await stock.query('CHECKPOINT')
    const [plainEnd] = await stock.query('SELECT pg_current_wal_flush_lsn()::text AS lsn')
    await pgbench(stock.address(), tpcb)
    const [imagesEnd] = await stock.query('SELECT pg_switch_wal()::text AS lsn')
    await stock.stop()

    const openTimeline = async (name: string, deltaFiles?: DeltaFiles) => {
      const dataDir = join(dir, name)
      mkdirSync(dataDir)
      const path = join(dir, `${name}-objects`)
      const tenants = new TenantManager({
        dataDir,
        objectStore: await openObjectStore({ kind: 'local_fs', path }, dataDir),
        redo,
        applyNativeOp,
        log,
        limits: sizes.limits ?? {},
        ...(deltaFiles ? { deltaFiles } : {}),
      })
      const tenantId = newTenantId()
      await tenants.attach(tenantId, 1)
      const timeline = await tenants.createTimeline(
        tenantId,
        newTimelineId(),
        { startLsn, systemId: String(control.systemId), pgVersion: 170011 },
        (empty) => importDataFolder(empty, base, control),
      )
      return { tenants, timeline }
    }
    const { tenants, timeline } = await openTimeline('pageserver')
    const ingest = await WalIngest.open(timeline)
    const walDir = join(stock.dataDir, 'pg_wal')
    const phases: [string | null, unknown][] = [
      ['pgbench -i', middle?.['lsn']],
      ['TPC-B', end?.['lsn']],
      // The checkpoint, which nobody measures.
      [null, plainEnd?.['lsn']],
      ['TPC-B with page images', imagesEnd?.['lsn']],
    ]
    for (const [phase, text] of phases) {
      const until = parseLsn(String(text))
      const from = ingest.nextLsn
      const wal = [...walChunks(walDir, from, until)]
      const used = await timed(async () => {
        await feed(ingest, wal)
        await timeline.flush()
      })
      if (phase === null) continue
      const images = phase.endsWith('images') ? 'since a checkpoint' : 'without page images'
      const how = `WAL ${images}, decode, index and flush in one thread (${formatLsn(from)} to ${formatLsn(until)})`
      addRates(report, `WAL ingest, ${phase}`, how, (ingest.nextLsn - from) / 1e6, used)
    }
    {
      const files = new FlushThread()
      const { tenants: others, timeline: other } = await openTimeline('threads', files)
      const again = await WalIngest.open(other)
      const [from, until] = [parseLsn(String(middle?.['lsn'])), parseLsn(String(end?.['lsn']))]
      await feed(again, walChunks(walDir, again.nextLsn, from))
      await other.flush()
      const wal = [...walChunks(walDir, from, until)]
      const used = await timed(async () => {
        await feed(again, wal)
        await other.flush()
      })
      const megabytes = (until - from) / 1e6
      const how = 'the same WAL again into another timeline, with the flush in a thread of its own'
      addRates(report, 'WAL ingest, TPC-B, flush in its thread', how, megabytes, used)
      await others.abandon()
      await files.close()
      const bare = await timed(() => decodeAndCopy(wal, from))
      report.add(
        {
          name: 'limit: decode and copy of TPC-B WAL',
          unit: 'MB/cpu s',
          better: 'more',
          how: 'page headers, checksums, records taken apart, a copy of the WAL; nothing is kept of it',
        },
        'zenith',
        megabytes / bare.threadSeconds,
      )
    }
    await after?.({ manager: tenants, timeline })
    await tenants.abandon()
  } finally {
    await redo.close()
    rmSync(dir, { recursive: true, force: true })
  }
}

function addRates(
  report: Report,
  name: string,
  how: string,
  megabytes: number,
  used: Elapsed,
): void {
  const goal = '>= 250 MB/s'
  const better = 'more'
  report.add({ name, unit: 'MB/s', better, how, goal }, 'zenith', megabytes / used.seconds)
  report.add(
    { name: `${name}, thread`, unit: 'MB/cpu s', better, how, goal },
    'zenith',
    megabytes / used.threadSeconds,
  )
  report.add(
    { name: `${name}, all threads`, unit: 'MB/cpu s', better, how },
    'zenith',
    megabytes / used.processSeconds,
  )
}

/** What ingest cannot do without, whatever the records mean. */
function decodeAndCopy(wal: Iterable<Buffer>, from: Lsn): void {
  const layer = new OpenLayer(from)
  const framer = new RecordFramer(from)
  const record = new DecodedRecord()
  for (const chunk of wal) {
    framer.feed(layer.hold(chunk, framer.nextLsn))
    for (let index = 0; index < framer.count; index++) framer.decode(index, record)
  }
}

async function feed(ingest: WalIngest, wal: Iterable<Buffer>): Promise<void> {
  for (const chunk of wal) await ingest.ingest(chunk, ingest.nextLsn)
}

/** As messages of a safekeeper. */
function* walChunks(walDir: string, from: Lsn, until: Lsn): Generator<Buffer> {
  const files = new Set(readdirSync(walDir))
  for (let lsn = from; lsn < until; ) {
    const name = segmentFileName(1, segmentNumber(lsn))
    if (!files.has(name)) throw new Error(`${name} is no longer in ${walDir}`)
    const segment = readFileSync(join(walDir, name))
    const end = Math.min(WAL_SEGMENT_SIZE, segmentOffset(lsn) + until - lsn)
    for (let at = segmentOffset(lsn); at < end; at += CHUNK_BYTES) {
      const chunk = segment.subarray(at, Math.min(end, at + CHUNK_BYTES))
      yield chunk
      lsn += chunk.length
    }
  }
}
