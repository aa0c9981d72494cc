/**
 * WAL in object storage: what goes there, what leaves the safekeepers' disks, and who reads it back.
 * Real safekeepers, a stock Postgres, and in place of a page server a client that takes all WAL and
 * says that it has it (`wal-follower.ts`): its copy is what everything else is compared with.
 */
import { execFile } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { formatLsn, type Lsn, parseLsn, segmentFileName, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { eventually } from '../fixtures/eventually.ts'
import { WalFollower } from '../fixtures/wal-follower.ts'
import { WalService } from '../fixtures/wal-service.ts'

const run = promisify(execFile)
const SETTINGS = { tail_after_s: 900, evict_after_s: 0, takeover_s: 1 }
const ROWS = "INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g"

async function currentLsn(service: WalService): Promise<Lsn> {
  const [row] = await service.postgres.query('SELECT pg_current_wal_flush_lsn()::text AS lsn')
  return parseLsn(String(row?.['lsn']))
}

function objectDir(service: WalService): string {
  return join(service.objectStoreDir, 'wal', service.tenantId, service.timelineId)
}

/** Full segments in object storage, in order. */
function objects(service: WalService): string[] {
  if (!existsSync(objectDir(service))) return []
  return readdirSync(objectDir(service))
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .sort()
}

function tails(service: WalService): string[] {
  const dir = join(objectDir(service), 'partial')
  return existsSync(dir) ? readdirSync(dir) : []
}

/** Segment files on the disk of a safekeeper. */
function localSegments(service: WalService, index: number): string[] {
  return readdirSync(service.walDir(index)).filter((name) => name.startsWith('0000'))
}

function followAll(service: WalService): AsyncDisposableStack & { followers: WalFollower[] } {
  const stack = new AsyncDisposableStack()
  const followers = service.members.map((member) =>
    stack.use(new WalFollower(member, service, service.startLsn)),
  )
  return Object.assign(stack, { followers })
}

async function backupLsn(service: WalService, index: number): Promise<Lsn> {
  return parseLsn((await service.timeline(index)).backupLsn)
}

const segmentStart = (lsn: Lsn) => lsn - (lsn % WAL_SEGMENT_SIZE)

/** Every full segment below `lsn` is there, with the very bytes that a page server was sent. */
function checkObjects(service: WalService, reference: WalFollower, lsn: Lsn): void {
  const first = segmentStart(service.startLsn)
  const wanted: string[] = []
  for (let start = first; start + WAL_SEGMENT_SIZE <= lsn; start += WAL_SEGMENT_SIZE) {
    const name = segmentFileName(1, start / WAL_SEGMENT_SIZE)
    wanted.push(name)
    const from = Math.max(start, service.startLsn)
    const stored = readFileSync(join(objectDir(service), name))
    expect(stored.length).toBe(WAL_SEGMENT_SIZE)
    const sent = reference.bytes(from, start + WAL_SEGMENT_SIZE)
    expect(stored.subarray(from - start).equals(sent), name).toBe(true)
  }
  expect(objects(service)).toEqual(wanted)
}

test('segments go to object storage and leave the disk under load; old WAL is read back', async () => {
  await using service = await WalService.start({ safekeepers: 1, offload: SETTINGS })
  const proposer = await service.startCompute()
  await using follow = followAll(service)
  const [follower] = follow.followers as [WalFollower]
  await service.postgres.query('CREATE TABLE t (a int, b text)')
  let most = 0
  for (let round = 0; round < 16; round += 1) {
    await service.postgres.query(ROWS)
    most = Math.max(most, localSegments(service, 0).length)
    // In order: what is there now has no gap.
    const numbers = objects(service).map((name) => Number.parseInt(name.slice(16), 16))
    const gap = numbers.some((number, index) => number - index !== numbers[0])
    expect(gap && numbers.length > 5).toBe(false)
  }
  const written = segmentStart(await currentLsn(service)) - service.startLsn
  expect(written).toBeGreaterThan(4 * WAL_SEGMENT_SIZE)
  // Switch, and at once everything up to the end of the segment can go (scenario 9).
  await service.postgres.query('SELECT pg_switch_wal()')
  await service.postgres.query('INSERT INTO t VALUES (0)')
  const lsn = await currentLsn(service)
  await eventually(
    async () => (await backupLsn(service, 0)) === segmentStart(lsn),
    'the switched segment to be backed up',
  )
  await proposer.waitCommitted(lsn)
  await eventually(() => follower.endLsn >= lsn, 'the follower')
  checkObjects(service, follower, lsn)
  await eventually(() => localSegments(service, 0).length === 1, 'old segments to leave the disk')
  expect(most).toBeLessThanOrEqual(12)
  expect((await service.timeline(0)).localStartLsn).toBe(formatLsn(segmentStart(lsn)))

  // Objects are ordinary WAL files.
  const { stdout } = await run(
    findPostgres().bin('pg_waldump'),
    [
      '-p',
      objectDir(service),
      '-s',
      formatLsn(service.startLsn),
      '-e',
      formatLsn(segmentStart(lsn)),
    ],
    { maxBuffer: 1 << 28 },
  )
  expect(stdout).toContain('SWITCH')
  expect(stdout.split('\n').length).toBeGreaterThan(100_000)

  // A stock client that begins at the start gets all of it, most from object storage.
  const received = mkdtempSync(join(tmpdir(), 'zenith-receivewal-'))
  const { host, pgPort } = service.members[0]!
  // It goes on behind the newest segment that it has.
  const [oldest] = objects(service) as [string]
  copyFileSync(join(objectDir(service), oldest), join(received, oldest))
  await run(
    findPostgres().bin('pg_receivewal'),
    [
      '-h',
      host,
      '-p',
      `${pgPort}`,
      '-U',
      'x',
      '-D',
      received,
      '-E',
      formatLsn(lsn - 8),
      '--no-loop',
    ],
    { env: { ...process.env, PGOPTIONS: service.pgOptions } },
  )
  for (const name of objects(service)) {
    const mine = readFileSync(join(objectDir(service), name))
    expect(readFileSync(join(received, name)).equals(mine), name).toBe(true)
  }
  rmSync(received, { recursive: true })
  const metrics = await (await fetch(`${service.safekeepers[0]?.url}/metrics`)).text()
  expect(metrics).toMatch(/zenith_safekeeper_wal_archive_read_bytes_total\S* [1-9]/)

  // Killed while it uploads, again and again: the objects stay whole (scenario 29).
  for (let round = 0; round < 4; round += 1) {
    await service.postgres.query(ROWS)
    await service.postgres.query(ROWS)
    await service.safekeepers[0]?.process.stop('SIGKILL')
    await service.safekeepers[0]?.process.start()
  }
  await service.postgres.query('SELECT pg_switch_wal()')
  await service.postgres.query('INSERT INTO t VALUES (0)')
  const end = await currentLsn(service)
  await eventually(
    async () => (await backupLsn(service, 0)) === segmentStart(end),
    'everything to be backed up after the kills',
  )
  await eventually(() => follower.endLsn >= end, 'the follower')
  checkObjects(service, follower, end)
})

test('object storage away for long: WAL piles up, commits go on, all drains on return', async () => {
  await using service = await WalService.start({ safekeepers: 1, offload: SETTINGS })
  await service.startCompute()
  await using follow = followAll(service)
  const [follower] = follow.followers as [WalFollower]
  await service.postgres.query('CREATE TABLE t (a int, b text)')
  for (let round = 0; round < 4; round += 1) await service.postgres.query(ROWS)
  await eventually(() => objects(service).length > 0, 'the first object')
  const { objectStoreDir } = service
  renameSync(objectStoreDir, `${objectStoreDir}.away`)
  writeFileSync(objectStoreDir, 'not a folder')
  await sleep(300)
  const before = await backupLsn(service, 0)
  for (let round = 0; round < 8; round += 1) await service.postgres.query(ROWS)
  const lsn = await currentLsn(service)
  await eventually(() => follower.endLsn >= lsn, 'the follower')
  await sleep(300)
  expect(await backupLsn(service, 0)).toBeLessThanOrEqual(before + WAL_SEGMENT_SIZE)
  expect(localSegments(service, 0).length).toBeGreaterThanOrEqual(3)
  const metrics = await (await fetch(`${service.safekeepers[0]?.url}/metrics`)).text()
  expect(metrics).toMatch(/zenith_safekeeper_wal_offload_failures_total\S* [1-9]/)
  rmSync(objectStoreDir)
  renameSync(`${objectStoreDir}.away`, objectStoreDir)
  await eventually(
    async () => (await backupLsn(service, 0)) === segmentStart(lsn),
    'what has piled up to drain',
  )
  checkObjects(service, follower, lsn)
  await eventually(() => localSegments(service, 0).length === 1, 'the disk to be emptied')

  // An object with other bytes than the committed WAL stops offloading, and is left alone.
  const next = segmentFileName(1, segmentStart(lsn) / WAL_SEGMENT_SIZE)
  writeFileSync(join(objectDir(service), next), Buffer.alloc(WAL_SEGMENT_SIZE, 1))
  await service.postgres.query('SELECT pg_switch_wal()')
  await service.postgres.query(ROWS)
  await eventually(
    async () => (await service.timeline(0)).offloadProblem !== null,
    'the conflict to be seen',
  )
  expect((await service.timeline(0)).offloadProblem).toContain('holds other bytes')
  expect(await backupLsn(service, 0)).toBe(segmentStart(lsn))
  await service.postgres.query(ROWS)
})

test('a safekeeper that was away catches up although its peers removed the WAL', async () => {
  await using service = await WalService.start({ safekeepers: 3, offload: SETTINGS })
  await service.startCompute()
  await using follow = followAll(service)
  await service.postgres.query('CREATE TABLE t (a int, b text)')
  await service.postgres.query(ROWS)
  await service.safekeepers[2]?.process.stop('SIGKILL')
  for (let round = 0; round < 10; round += 1) await service.postgres.query(ROWS)
  const lsn = await currentLsn(service)
  for (const index of [0, 1]) {
    await eventually(
      () => localSegments(service, index).length <= 2,
      `safekeeper ${index + 1} to remove what is backed up`,
    )
  }
  // The proposer has the newest 32 MiB in memory: what is older comes from a peer, which reads it back.
  expect(lsn - service.startLsn).toBeGreaterThan(48 * 1024 * 1024)
  await service.safekeepers[2]?.process.start()
  await eventually(
    async () => parseLsn((await service.timeline(2)).commitLsn) >= lsn,
    'the third to catch up',
  )
  const digests = await Promise.all(
    [0, 1, 2].map((index) => service.digest(index, service.startLsn, lsn)),
  )
  expect(new Set(digests).size).toBe(1)
  const [follower] = follow.followers as [WalFollower]
  await eventually(() => follower.endLsn >= lsn, 'the follower')
  await eventually(
    async () => (await backupLsn(service, 2)) >= segmentStart(lsn),
    'the third to compare what its peers have uploaded',
  )
  checkObjects(service, follower, lsn)
})

test('an idle timeline leaves the disk and comes back with the same bytes', async () => {
  await using service = await WalService.start({
    safekeepers: 1,
    offload: { tail_after_s: 0.3, evict_after_s: 2, takeover_s: 1 },
  })
  const proposer = await service.startCompute()
  await service.postgres.query('CREATE TABLE t (a int, b text)')
  for (let round = 0; round < 4; round += 1) await service.postgres.query(ROWS)
  await service.postgres.stop()
  await proposer.stop()
  const before = await service.timeline(0)
  const lsn = parseLsn(before.flushLsn)
  expect(before.commitLsn).toBe(before.flushLsn)
  const whole = await service.digest(0, service.startLsn, lsn)
  const evicted = async () => (await service.timeline(0)).evicted

  await eventually(evicted, 'the timeline to leave the disk')
  await eventually(() => localSegments(service, 0).length === 0, 'its files to go')
  expect(tails(service)).toHaveLength(1)
  // After a start it is still so, and positions are the same.
  await service.safekeepers[0]?.process.stop('SIGKILL')
  await service.safekeepers[0]?.process.start()
  expect(await service.timeline(0)).toMatchObject({ flushLsn: before.flushLsn, evicted: true })

  // Whoever reads its end brings it back; older segments stay where they are.
  expect(await service.digest(0, service.startLsn, lsn)).toBe(whole)
  expect(await service.timeline(0)).toMatchObject({
    evicted: false,
    localStartLsn: formatLsn(segmentStart(lsn)),
  })
  await eventually(evicted, 'the timeline to leave again')
  await eventually(() => localSegments(service, 0).length === 0, 'its files to go again')

  // Killed at any moment of leaving and of coming back: the same log each time.
  for (let round = 0; round < 3; round += 1) {
    const reading = service.digest(0, segmentStart(lsn), lsn).catch(() => null)
    await sleep(round * 20)
    await service.safekeepers[0]?.process.stop('SIGKILL')
    await reading
    await service.safekeepers[0]?.process.start()
    await sleep(1900 + round * 60)
    await service.safekeepers[0]?.process.stop('SIGKILL')
    await service.safekeepers[0]?.process.start()
    expect((await service.timeline(0)).flushLsn).toBe(before.flushLsn)
    expect(await service.digest(0, service.startLsn, lsn)).toBe(whole)
  }
  await eventually(evicted, 'the timeline to leave after the kills')
  await eventually(() => localSegments(service, 0).length === 0, 'its files to go after the kills')

  // A tail that is not what it was is refused, by name, and nothing goes on without it.
  const [name] = tails(service) as [string]
  const tail = join(objectDir(service), 'partial', name)
  const good = readFileSync(tail)
  const bad = Buffer.from(good)
  bad[good.length - 40] = (bad[good.length - 40] as number) ^ 1
  for (const wrong of [bad, good.subarray(0, good.length - 8), null]) {
    rmSync(tail)
    if (wrong) writeFileSync(tail, wrong)
    await expect(service.digest(0, segmentStart(lsn), lsn)).rejects.toMatchObject({
      code: 'unavailable',
    })
    expect(await evicted()).toBe(true)
    if (!wrong) writeFileSync(tail, good)
  }

  // A compute writes to it: same term history, same end, and then more.
  const next = service.proposer('next')
  const { startLsn } = await next.elect()
  expect(startLsn).toBe(lsn)
  const after = await service.timeline(0)
  expect(after.term).toBeGreaterThan(before.term)
  expect(after.evicted).toBe(false)
  await next.stop()
  expect(await service.digest(0, service.startLsn, lsn)).toBe(whole)

  // Objects go with the timeline only when the control plane says so.
  const { tenantId, timelineId } = service
  const params = { tenantId, timelineId }
  const url = service.safekeepers[0]?.url as string
  await callSafekeeper(url, 'deleteTimeline', { params })
  expect(objects(service).length).toBeGreaterThan(0)
  await callSafekeeper(url, 'deleteTimeline', { params, query: { objects: 'true' } })
  expect([objects(service), tails(service)]).toEqual([[], []])
})
