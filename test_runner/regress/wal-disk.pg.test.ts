/**
 * The disk of a safekeeper, with real processes: power lost under load, a full disk, limits, records
 * and switches larger than a segment's rest, hundreds of timelines.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { newTimelineId } from '#libs/ids.ts'
import { formatLsn, parseLsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { eventually } from '../fixtures/eventually.ts'
import { SmallDisk, smallDisksMissing } from '../fixtures/small-disk.ts'
import { WalFollower } from '../fixtures/wal-follower.ts'
import { WalService } from '../fixtures/wal-service.ts'

const MIB = 1024 * 1024
/** Of one record: more than a proposer takes in while nobody acknowledges (compute/proposer/wal-window.ts). */
const LARGE_MIB = 160
const OFFLOAD = { tail_after_s: 900, evict_after_s: 0, takeover_s: 1 }

async function insertedUntil(service: WalService): Promise<number> {
  const [row] = await service.postgres.query('SELECT pg_current_wal_flush_lsn()::text AS lsn')
  return parseLsn(String(row?.['lsn']))
}

/** Bytes of WAL in one record. */
function emit(service: WalService, megabytes: number): Promise<unknown> {
  const text = `repeat('x', ${megabytes * MIB})`
  return service.postgres.query(`SELECT pg_logical_emit_message(true, 'test', ${text})`)
}

function diskStatus(service: WalService) {
  const { url } = service.safekeepers[0]!
  return callSafekeeper(url, 'status').then((status) => status.disk)
}

function pidOf(service: WalService): number {
  return service.safekeepers[0]!.process.pid as number
}

/** A line such as VmHWM of a process' status, in bytes. */
function memoryOf(pid: number, line: 'VmHWM' | 'VmRSS'): number {
  const match = new RegExp(`${line}:\\s+(\\d+) kB`).exec(
    readFileSync(`/proc/${pid}/status`, 'utf8'),
  )
  return Number(match?.[1]) * 1024
}

const needsRoot = test.skipIf(smallDisksMissing !== null)

// Skipped for other users than root, who cannot mount a file system.
needsRoot(
  'power is lost under load: nothing acknowledged is gone, the process ends itself',
  async () => {
    using disk = SmallDisk.ext4(224)
    await using service = await WalService.start({
      safekeepers: 1,
      safekeeperDir: () => join(disk.dir, 'sk'),
      safekeeperSettings: ['min_free_bytes = 0'],
    })
    disk.sync()
    await service.startCompute()
    await service.postgres.query('CREATE TABLE ledger (id int PRIMARY KEY, filler text)')
    const { process } = service.safekeepers[0]!
    const acknowledged: number[] = []
    let running = true
    const writer = (async () => {
      const client = await service.postgres.connect()
      for (let id = 0; running; id += 1) {
        const insert = `INSERT INTO ledger VALUES (${id}, repeat('f', ${(id * 7919) % 30_000}))`
        const result = await client.query(
          `${insert} RETURNING pg_current_wal_insert_lsn()::text AS lsn`,
        )
        acknowledged.push(parseLsn(String(result.rows[0].lsn)))
      }
      await client.end()
    })()
    for (let round = 0; round < 2; round += 1) {
      const before = acknowledged.length
      await eventually(async () => acknowledged.length > before + 30, 'commits')
      disk.losePower()
      // Its next synced write fails: it neither goes on nor acknowledges.
      expect(await process.exited).toBe(1)
      const last = acknowledged.at(-1) as number
      disk.restorePower()
      await process.start()
      expect(parseLsn((await service.timeline(0)).flushLsn)).toBeGreaterThanOrEqual(last)
    }
    const count = acknowledged.length
    await eventually(async () => acknowledged.length > count + 5, 'commits to go on')
    running = false
    await writer
    const [row] = await service.postgres.query('SELECT count(*)::int AS n FROM ledger')
    expect(row?.['n']).toBe(acknowledged.length)
  },
)

needsRoot(
  'a full disk: the segment in use goes on, the next one waits, votes are stored',
  async () => {
    using disk = SmallDisk.tmpfs(128)
    await using service = await WalService.start({
      safekeepers: 1,
      safekeeperDir: () => join(disk.dir, 'sk'),
      safekeeperSettings: ['min_free_bytes = 0'],
    })
    await service.startCompute()
    await service.postgres.query('CREATE TABLE t (a int)')
    const spares = join(disk.dir, 'sk', 'spares')
    await eventually(async () => readdirSync(spares).length === 2, 'the spares')
    const pid = pidOf(service)
    disk.fill()

    // Within the segment nothing is needed of the disk.
    await service.postgres.query('INSERT INTO t SELECT g FROM generate_series(1, 1000) g')
    // A term needs a new control file: the reserve is given up for it.
    expect(disk.freeBytes).toBe(0)
    const { url } = service.safekeepers[0]!
    const params = { tenantId: service.tenantId, timelineId: service.timelineId }
    await callSafekeeper(url, 'bumpTerm', { params, body: { term: 100 } })
    expect((await service.timeline(0)).term).toBeGreaterThanOrEqual(100)

    // Beyond the spares there is nowhere to write to.
    let done = false
    const waiting = emit(service, 60).then(() => {
      done = true
    })
    const refusal = await eventually(async () => (await diskStatus(service)).refusal, 'a refusal')
    expect(refusal).toContain('is full')
    await sleep(500)
    expect(done).toBe(false)
    const { flushLsn, segmentRefusal } = await stateOf(service)
    expect(segmentRefusal).toContain('is full')

    disk.empty()
    await waiting
    expect(parseLsn((await service.timeline(0)).flushLsn)).toBeGreaterThan(parseLsn(flushLsn))
    await service.postgres.query('INSERT INTO t VALUES (0)')
    expect(pidOf(service)).toBe(pid)
    const reserve = join(disk.dir, 'sk', 'reserve')
    await eventually(async () => existsSync(reserve), 'the reserve')
  },
)

async function stateOf(service: WalService) {
  const { flushLsn, refusal } = await service.timeline(0)
  return { flushLsn, segmentRefusal: refusal }
}

test('a limit refuses appends until the page server and object storage have the WAL', async () => {
  await using service = await WalService.start({
    safekeepers: 1,
    safekeeperSettings: ['max_timeline_wal_bytes = 50331648', 'min_free_bytes = 0'],
    offload: OFFLOAD,
  })
  await service.startCompute()
  const target = { tenantId: service.tenantId, timelineId: service.timelineId }
  await using follower = new WalFollower(service.members[0]!, target, service.startLsn)
  follower.confirming = false
  let done = false
  const waiting = (async () => {
    for (let n = 0; n < 10; n += 1) await emit(service, 8)
    done = true
  })()
  await eventually(async () => (await service.timeline(0)).refusal, 'a refusal')
  const full = await service.timeline(0)
  expect(full.refusal).toContain('max_timeline_wal_bytes')
  expect(full.walBytes).toBe(3 * WAL_SEGMENT_SIZE)
  await sleep(300)
  expect(done).toBe(false)
  follower.confirming = true
  await waiting
  expect((await service.timeline(0)).walBytes).toBeLessThanOrEqual(3 * WAL_SEGMENT_SIZE)
  expect(parseLsn((await service.timeline(0)).flushLsn)).toBeGreaterThan(80 * MIB)
})

test('a record larger than all buffers: the log never ends inside it, memory stays flat', async () => {
  await using service = await WalService.start({ safekeepers: 1 })
  await service.startCompute()
  const { process } = service.safekeepers[0]!
  const start = await insertedUntil(service)
  // As much in small records first: buffers and the collector's habits take their share once.
  for (let n = 0; n < 40; n += 1) await emit(service, 1)
  const before = memoryOf(pidOf(service), 'VmHWM')
  await emit(service, LARGE_MIB)
  const growth = memoryOf(pidOf(service), 'VmHWM') - before
  // Not in proportion to it; what a collector leaves for later differs from run to run.
  expect(growth).toBeLessThan((LARGE_MIB / 2) * MIB)
  const middle = await insertedUntil(service)
  expect(middle - start).toBeGreaterThan((40 + LARGE_MIB) * MIB)

  // Killed within the next one: the log ends before it.
  const second = emit(service, LARGE_MIB)
  const partial = () =>
    readdirSync(service.walDir(0)).filter((name) => /^[0-9A-F]{24}/.test(name)).length
  const segments = partial()
  await eventually(async () => partial() > segments, 'the record to reach another segment')
  await process.stop('SIGKILL')
  await process.start()
  const { flushLsn } = await service.timeline(0)
  const after = await second.then(() => insertedUntil(service))
  const flush = parseLsn(flushLsn)
  expect(flush < middle + MIB || flush > middle + LARGE_MIB * MIB).toBe(true)
  await eventually(async () => parseLsn((await service.timeline(0)).commitLsn) >= after, 'commit')
})

test('pg_switch_wal, then a kill at once: the switch is whole or not there, and is copied', async () => {
  await using service = await WalService.start({ safekeepers: 1, offload: OFFLOAD })
  await service.startCompute()
  const { process } = service.safekeepers[0]!
  await service.postgres.query('CREATE TABLE t (a int)')
  for (let round = 0; round < 3; round += 1) {
    const acknowledged = await insertedUntil(service)
    await service.postgres.query('SELECT pg_switch_wal()')
    await sleep(round * 4)
    await process.stop('SIGKILL')
    await process.start()
    expect(parseLsn((await service.timeline(0)).flushLsn)).toBeGreaterThanOrEqual(acknowledged)
    await service.postgres.query(`INSERT INTO t VALUES (${round})`)
  }
  const end = await insertedUntil(service)
  const lastFull = end - (end % WAL_SEGMENT_SIZE)
  await eventually(
    async () => parseLsn((await service.timeline(0)).backupLsn) >= lastFull,
    'all full segments to be copied',
  )
  // The switches and all else are there as Postgres has them.
  const names = readdirSync(service.walDir(0)).filter((name) => /^[0-9A-F]{24}$/.test(name))
  expect(names.length).toBeGreaterThanOrEqual(3)
  for (const name of names.slice(1)) {
    const mine = readFileSync(join(service.walDir(0), name))
    const theirs = readFileSync(join(service.postgres.dataDir, 'pg_wal', name))
    expect(mine.equals(theirs), name).toBe(true)
  }
})

test('300 timelines take neither disk, descriptors nor memory while nobody writes to them', async () => {
  await using service = await WalService.start({ safekeepers: 1 })
  const { url, process, dir } = service.safekeepers[0]!
  const memoryBefore = memoryOf(pidOf(service), 'VmRSS')
  const ids = Array.from({ length: 300 }, () => ({
    tenantId: service.tenantId,
    timelineId: newTimelineId(),
  }))
  const waiting = [...ids]
  const create = async () => {
    for (let params = waiting.pop(); params; params = waiting.pop()) {
      await callSafekeeper(url, 'createTimeline', {
        params,
        body: {
          startLsn: formatLsn(service.startLsn + 8 * waiting.length),
          systemId: String(service.systemId),
          generation: 1,
          members: service.members,
        },
      })
    }
  }
  await Promise.all(Array.from({ length: 16 }, create))
  const check = async () => {
    const { timelines, disk } = await callSafekeeper(url, 'status')
    expect(timelines).toBe(301)
    expect(disk.walBytes).toBe(0)
    expect(readdirSync(`/proc/${pidOf(service)}/fd`).length).toBeLessThan(80)
    expect(memoryOf(pidOf(service), 'VmRSS') - memoryBefore).toBeLessThan(128 * MIB)
  }
  await check()
  await process.stop('SIGKILL')
  await process.start()
  await check()
  const folders = readdirSync(join(dir, 'tenants', service.tenantId))
  for (const id of folders) {
    expect(readdirSync(join(dir, 'tenants', service.tenantId, id))).toEqual(['safekeeper.control'])
  }
})
