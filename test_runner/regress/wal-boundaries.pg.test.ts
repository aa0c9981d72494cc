/**
 * Where the log of a branch may end, with a whole installation: exactly at the start of a page or of
 * a segment, 8 bytes before, behind a switch of segments, in the middle of a record. The next compute
 * starts there, and the safekeeper's log stays one that pg_waldump reads from end to end.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFailed, test } from 'vitest'
import { callPageserver } from '#libs/api/pageserver.ts'
import {
  formatLsn,
  type Lsn,
  parseLsn,
  segmentOffset,
  WAL_PAGE_SIZE,
  WAL_SEGMENT_SIZE,
  walPageOffset,
} from '#libs/lsn.ts'
import { XLP_FIRST_IS_CONTRECORD } from '#libs/wal/format.ts'
import { walPayload } from '../../pageserver/basebackup/wal-pages.ts'
import type { Compute } from '../fixtures/compute.ts'
import { eventually } from '../fixtures/eventually.ts'
import { Installation, type InstallationOptions } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'
import { SafekeeperLog } from '../fixtures/safekeeper-log.ts'
import { Prng } from '../sim/prng.ts'

/** Nothing but the test writes WAL; the 15 s between the bgwriter's records are longer than a round. */
const QUIET = { autovacuum: 'off', checkpoint_timeout: '1d', max_wal_size: '4GB' }
/** A message of this length is measured; longer and shorter ones follow from it. */
const MEASURED_LENGTH = 1000
const LEAST_PAYLOAD = 2000
const STEERING_TRIES = 5
/** The shutdown checkpoint with which a compute starts, and ends when it is stopped. */
const CHECKPOINT_BYTES = 114
const CHECKPOINT_ALIGNED = 120
/** Set ZENITH_TEST_SEED to see one run again. */
const SEED = Number(process.env['ZENITH_TEST_SEED'] ?? Date.now() % 100_000)
/** Those at even places are larger than what is sent while the test looks. */
const LARGE_WRITES = [60, 8, 60, 0].map((megabytes) =>
  megabytes === 0
    ? "COPY copied FROM PROGRAM 'seq 1 3000000'"
    : `SELECT pg_logical_emit_message(false, 'x', m)
       FROM (SELECT repeat('y', ${megabytes} * 1000000) AS m) AS one, generate_series(1, 4)`,
)

async function install(options: InstallationOptions = {}): Promise<Installation> {
  const zenith = await Installation.create({ safekeepers: 1, ...options })
  onTestFailed(() => console.error(zenith.logs()))
  return zenith
}

async function lsnOf(compute: Compute, call: string): Promise<Lsn> {
  return parseLsn(String(await compute.value(`SELECT ${call}::text`)))
}

async function startLsnOf(compute: Compute): Promise<Lsn> {
  await eventually(async () => (await compute.info()).status === 'running', 'its report')
  return parseLsn((await compute.status()).startLsn as string)
}

function emit(compute: Compute, length: number): Promise<unknown> {
  return compute.query(
    `SELECT pg_logical_emit_message(false, 'x', repeat('m', ${length}), flush => true)`,
  )
}

/** What the message record of `MEASURED_LENGTH` takes in the log, without page headers. */
async function measureMessage(compute: Compute): Promise<number> {
  const before = await lsnOf(compute, 'pg_current_wal_insert_lsn()')
  await emit(compute, MEASURED_LENGTH)
  return walPayload(before, await lsnOf(compute, 'pg_current_wal_insert_lsn()'))
}

/** Writes one record that ends `reserve` bytes of WAL before `target`. */
async function steer(compute: Compute, target: Lsn, reserve: number): Promise<void> {
  const measured = await measureMessage(compute)
  const at = await lsnOf(compute, 'pg_current_wal_insert_lsn()')
  const wanted = walPayload(at, target) - reserve
  expect(wanted).toBeGreaterThanOrEqual(measured)
  await emit(compute, MEASURED_LENGTH + wanted - measured)
}

interface Place {
  unit: number
  before: number
}

/** The next such place with room for the records that lead there. */
function nextPlace(at: Lsn, { unit, before }: Place): Lsn {
  let start = Math.ceil((at + 2 * LEAST_PAYLOAD) / unit) * unit
  // A page start that is a segment start too has a case of its own.
  if (unit === WAL_PAGE_SIZE && segmentOffset(start) === 0) start += unit
  return start - before
}

const PLACES: [string, Place][] = [
  ['a page start', { unit: WAL_PAGE_SIZE, before: 0 }],
  ['a segment start', { unit: WAL_SEGMENT_SIZE, before: 0 }],
  ['8 bytes before a page', { unit: WAL_PAGE_SIZE, before: 8 }],
  ['8 bytes before a segment', { unit: WAL_SEGMENT_SIZE, before: 8 }],
]

/** The page header behind the boundary: it begins with the rest of the checkpoint record, or none. */
function checkHeader(log: SafekeeperLog, startLsn: Lsn): void {
  const inPage = walPageOffset(startLsn)
  const onOldPage = inPage === 0 ? 0 : WAL_PAGE_SIZE - inPage
  const { info, remainingLength } = log.pageHeader(startLsn + onOldPage)
  expect(remainingLength).toBe(onOldPage === 0 ? 0 : CHECKPOINT_BYTES - onOldPage)
  expect((info & XLP_FIRST_IS_CONTRECORD) !== 0).toBe(onOldPage !== 0)
}

test('killed or stopped when the log ends at a page or segment start, or 8 bytes before', async () => {
  await using zenith = await install()
  let compute = await zenith.startCompute('main', { settings: QUIET })
  const log = new SafekeeperLog(zenith, compute.spec.timelineId)
  await compute.query('CREATE TABLE t (round int, filler text)')
  let rounds = 0

  /** One steering; returns where the next compute started, which is the place unless somebody wrote. */
  const endAt = async (place: Place, ending: 'kill' | 'stop'): Promise<[Lsn, Lsn]> => {
    const at = await lsnOf(compute, 'pg_current_wal_insert_lsn()')
    const target = nextPlace(at, place)
    await steer(compute, target, ending === 'stop' ? CHECKPOINT_ALIGNED : 0)
    if (ending === 'kill') {
      await eventually(
        async () => parseLsn((await log.state()).commitLsn) >= target,
        'the quorum to have it',
      )
      await compute.kill()
      // Its safekeeper finds the end of the log anew, in files that end there too.
      if (place.unit === WAL_SEGMENT_SIZE) {
        await zenith.safekeepers[0]?.stop('SIGKILL')
        await zenith.safekeepers[0]?.start()
      }
    } else expect(await compute.stop()).toBe(0)
    const end = await log.flushLsn()
    compute = await zenith.startCompute('main', { settings: QUIET })
    const startLsn = await startLsnOf(compute)
    expect(startLsn).toBe(end)
    return [target, startLsn]
  }

  for (const [name, place] of PLACES) {
    for (const ending of ['kill', 'stop'] as const) {
      const what = `${ending} at ${name}`
      rounds += 1
      await compute.query(
        `INSERT INTO t SELECT ${rounds}, repeat(chr(64 + ${rounds}), 300) FROM generate_series(1, 200)`,
      )
      // Free space maps go into the log when they are written out, which a stop would do.
      if (ending === 'stop') await compute.query('CHECKPOINT')
      let tries = 0
      for (let hit = false; !hit; tries += 1) {
        if (tries === STEERING_TRIES) throw new Error(`${what}: somebody writes all the time`)
        const [target, startLsn] = await endAt(place, ending)
        hit = startLsn === target
        if (!hit) console.warn(`${what}: ${formatLsn(startLsn)}, not ${formatLsn(target)}`)
      }
      // The new compute writes behind the boundary, and nothing before it is gone.
      await compute.query(`INSERT INTO t SELECT -${rounds}, 'after' FROM generate_series(1, 50)`)
      checkHeader(log, await startLsnOf(compute))
      const end = await lsnOf(compute, 'pg_current_wal_flush_lsn()')
      await log.check(end)
      const kept = await compute.query(
        `SELECT round, count(*)::int AS n, count(DISTINCT filler)::int AS fillers, min(length(filler)) AS length
         FROM t GROUP BY round ORDER BY round`,
      )
      const wanted = Array.from({ length: 2 * rounds + 1 }, (_, index) => index - rounds)
        .filter((round) => round !== 0)
        .map((round) => ({
          round,
          n: round < 0 ? 50 : 200,
          fillers: 1,
          length: round < 0 ? 5 : 300,
        }))
      expect(kept, what).toEqual(wanted)
    }
  }
})

test('a switch of segments and at once a kill: it goes on, the segments leave the disk', async () => {
  await using zenith = await install({
    offload: { tail_after_s: 900, evict_after_s: 0, takeover_s: 1 },
  })
  let compute = await zenith.startCompute('main', { settings: QUIET })
  const { tenantId } = zenith
  const { timelineId } = compute.spec
  const log = new SafekeeperLog(zenith, timelineId)
  await compute.query('CREATE TABLE t (round int)')
  const { startLsn } = await log.state()
  const moments = ['at once', 'soon', 'begun', 'all of it'] as const
  const starts: string[] = []
  for (const [round, moment] of moments.entries()) {
    await compute.query(`INSERT INTO t SELECT ${round} FROM generate_series(1, 100)`)
    const before = await lsnOf(compute, 'pg_current_wal_insert_lsn()')
    const next = before - segmentOffset(before) + WAL_SEGMENT_SIZE
    const client = await compute.connect()
    const switched = client.query('SELECT pg_switch_wal()').catch(() => undefined)
    if (moment === 'soon') await sleep(5)
    if (moment === 'begun') await eventually(() => log.begunRecord(before).begun, 'the record')
    if (moment === 'all of it') {
      await eventually(async () => (await log.flushLsn()) === next, 'the end of the segment')
    }
    await compute.kill()
    await switched
    await client.end().catch(() => undefined)
    compute = await zenith.startCompute('main', { settings: QUIET })
    const start = await startLsnOf(compute)
    // A switch with the rest of its segment is one record: all of it is there, or nothing.
    expect([before, next]).toContain(start)
    starts.push(`${moment}: ${start === next ? 'behind' : 'before'}`)
    if (moment === 'all of it') expect(start).toBe(next)
    const rows = await compute.query(
      'SELECT round, count(*)::int AS n FROM t GROUP BY 1 ORDER BY 1',
    )
    expect(rows).toEqual(Array.from({ length: round + 1 }, (_, one) => ({ round: one, n: 100 })))
  }
  console.info(`where the next compute started: ${starts.join(', ')} the switch`)

  await compute.query('INSERT INTO t VALUES (-1)')
  const end = await lsnOf(compute, 'pg_current_wal_flush_lsn()')
  const segment = end - segmentOffset(end)
  const { host, httpPort } = zenith.pageserverNode
  await eventually(async () => {
    const params = { tenantId, timelineId }
    await callPageserver(`http://${host}:${httpPort}`, 'checkpoint', { params })
    return parseLsn((await log.state()).localStartLsn) === segment
  }, 'the segments to leave the disk')
  await eventually(() => log.segments().length === 1, 'their files to go')
  const first = parseLsn(startLsn) - segmentOffset(parseLsn(startLsn))
  expect(log.objects()).toHaveLength((segment - first) / WAL_SEGMENT_SIZE)
  expect(parseLsn((await log.state()).backupLsn)).toBe(segment)
  await log.check(end)
})

test(`killed in the middle of records over pages and segments, seed ${SEED}`, async () => {
  await using zenith = await install()
  const settings = { autovacuum: 'off', wal_buffers: '64kB' }
  let compute = await zenith.startCompute('main', { settings })
  const log = new SafekeeperLog(zenith, compute.spec.timelineId)
  const prng = new Prng(SEED)
  const ledger = new Ledger(() => compute.connect(), 3)
  await ledger.createTables()
  await compute.query('CREATE TABLE copied (a int)')
  ledger.start()
  const found = { begun: 0, inNextSegment: 0 }
  let from = await startLsnOf(compute)
  for (let round = 0; round < 8; round += 1) {
    await ledger.progress(10, 60_000)
    const client = await compute.connect()
    const writing = client.query(LARGE_WRITES[round % 4] as string).catch(() => undefined)
    // Every other time anywhere, else when a record has begun that will go over two segments.
    if (round % 2 === 1) await sleep(prng.int(50, 500))
    else await eventually(() => log.isInLargeRecord(), 'a large record to begin')
    await sleep(prng.int(0, 20))
    await compute.kill()
    // The server process of the large record may live on for a while, alone.
    void writing.then(() => client.end()).catch(() => undefined)
    await eventually(async () => !(await log.state()).computeConnected, 'the safekeeper to notice')
    const end = await log.settledLsn()
    expect(await log.lastRecordEnd(from)).toBe(end)
    const { begun, inNextSegment } = log.begunRecord(end)
    if (begun) found.begun += 1
    if (inNextSegment) found.inNextSegment += 1
    compute = await zenith.startCompute('main', { settings })
    from = await startLsnOf(compute)
    expect(from).toBe(end)
    expect(await ledger.violations()).toEqual([])
    if (round >= 3 && found.inNextSegment > 0) break
  }
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  await log.check(await lsnOf(compute, 'pg_current_wal_flush_lsn()'))
  console.info(`rounds with a begun record: ${JSON.stringify(found)}`)
  expect(found.inNextSegment).toBeGreaterThanOrEqual(1)
  expect(found.begun).toBeGreaterThanOrEqual(2)
})
