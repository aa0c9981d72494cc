/** Cutoffs, leases, horizons and holds over a real tenant on scratch folders. */
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { createMetrics } from '#libs/metrics.ts'
import { timestampNow } from '#libs/pg/timestamp.ts'
import { LATEST_LSN } from '#libs/protocol/page-stream.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { lsnToRead } from '../page-service/reader.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import { putToyCheckpoint } from '../tenants/testing/toy-checkpoint.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { nextCutoff } from './cutoff.ts'
import { GarbageCollector } from './garbage-collector.ts'
import { createGcMetrics } from './gc-metrics.ts'
import { Leases } from './leases.ts'
import { ReadsInFlight } from './reads-in-flight.ts'

const START_LSN = 0x2000000
const HOUR_MS = 3_600_000
const WEEK_MS = 168 * HOUR_MS
const BLOCKS = 8

let server: ScratchServer
let id: TimelineId

beforeEach(async () => {
  server = await ScratchServer.start()
  id = newTimelineId()
})
afterEach(async () => {
  await server.stop()
})

const at = (round: number) => START_LSN + round * 800
const slotOf = (timeline: Timeline) => timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)

function putRound(timeline: Timeline, round: number, ageMs = 0): void {
  const size = Buffer.alloc(4)
  size.writeUInt32LE(BLOCKS)
  const sizeSlot = timeline.slot(KeyClass.RelSize, 1, 2, 3, 0)
  timeline.put(sizeSlot, 0, at(round), ValueKind.Image, size, 0, 4)
  for (let blk = 0; blk < BLOCKS; blk++) {
    const page = Buffer.alloc(PAGE_SIZE, round * BLOCKS + blk)
    timeline.put(slotOf(timeline), blk, at(round), ValueKind.Image, page, 0, PAGE_SIZE)
  }
  putToyCheckpoint(timeline, at(round), timestampNow() - ageMs * 1000)
  timeline.publish(at(round))
}

/** Rounds 0.. with layers and images of each; the ages of their commits are given. */
async function create(agesMs: readonly number[]): Promise<Timeline> {
  const facts = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  const timeline = await server.tenant.createTimeline(id, facts, async (empty) => {
    putRound(empty, 0, agesMs[0])
  })
  for (let round = 1; round < agesMs.length; round++) {
    putRound(timeline, round, agesMs[round])
    await timeline.createImageLayers()
  }
  return timeline
}

async function expectRound(timeline: Timeline, round: number, lsn: number): Promise<void> {
  const pages = await timeline.readPages(slotOf(timeline), 0, BLOCKS, lsn)
  for (let blk = 0; blk < BLOCKS; blk++) {
    expect(pages[blk * PAGE_SIZE]).toBe((round * BLOCKS + blk) % 256)
  }
}

const collect = (pitrIntervalMs = 0, pitrBytes: number | null = null, of = id) =>
  server.tenant.collectGarbage(of, { pitrIntervalMs, pitrBytes })
const isGone = { code: 'out_of_range', message: expect.stringContaining('is gone') }

describe('the cutoff', () => {
  test('follows the age of commits', async () => {
    const timeline = await create([9, 8, 5, 3, 0].map((hours) => hours * HOUR_MS))
    expect(await collect(10 * HOUR_MS)).toMatchObject({ cutoffLsn: null, removedLayers: 0 })
    expect((await collect(6 * HOUR_MS)).cutoffLsn).toBe(at(1))
    await expectRound(timeline, 1, at(1))
    await expectRound(timeline, 1, at(2) - 8)
    await expect(timeline.readPage(slotOf(timeline), 0, at(1) - 8)).rejects.toMatchObject(isGone)
    expect((await collect(4 * HOUR_MS)).cutoffLsn).toBe(at(2))
    expect((await collect(HOUR_MS)).removedLayers).toBeGreaterThan(0)
    expect(timeline.gcCutoffLsn).toBe(at(3))
    await expectRound(timeline, 3, at(3))
    await expectRound(timeline, 4, at(4))
  })

  test('never goes back, whatever is asked for, nor with a restart', async () => {
    await create([0, 0, 0, 0])
    expect((await collect()).cutoffLsn).toBe(at(3))
    expect((await collect(WEEK_MS)).cutoffLsn).toBe(at(3))
    await server.restart({ wipeLocal: true })
    const timeline = server.tenant.timeline(id)
    expect(timeline.gcCutoffLsn).toBe(at(3))
    await expect(timeline.readPage(slotOf(timeline), 0, at(2))).rejects.toMatchObject(isGone)
    await expectRound(timeline, 3, at(3))
  })

  test('bytes limit what the interval would keep', async () => {
    const timeline = await create([0, 0, 0, 0, 0])
    expect((await collect(WEEK_MS, 1700)).cutoffLsn).toBe(at(4) - 1704)
    await expectRound(timeline, 1, at(2) - 8)
  })

  test('does not concern a request for the newest page, however old what its sender knows', async () => {
    const timeline = await create([0, 0, 0, 0])
    expect((await collect()).cutoffLsn).toBe(at(3))
    const lsn = await lsnToRead(timeline, { requestLsn: LATEST_LSN, notModifiedSince: at(0) })
    expect(lsn).toBe(at(3))
    await expectRound(timeline, 3, lsn)
  })

  test('is a place where a branch can be made', async () => {
    const timeline = await create([0, 0, 0, 0])
    const { cutoffLsn } = await collect(WEEK_MS, 801)
    const ancestorLsn = cutoffLsn as number
    const place = { ancestorTimelineId: id, ancestorLsn }
    const branch = await server.tenant.branchTimeline(newTimelineId(), place)
    await expectRound(branch, 1, branch.lastRecordLsn)
    const below = { ancestorTimelineId: id, ancestorLsn: ancestorLsn - 8 }
    await expect(server.tenant.branchTimeline(newTimelineId(), below)).rejects.toMatchObject(isGone)
    expect(timeline.retainedPoints()).toEqual([ancestorLsn])
  })

  test('is bounded by what is durable, by standbys, and by where one could begin', () => {
    const lsn = fc.integer({ min: 0, max: 1000 })
    const maybe = fc.option(lsn)
    fc.assert(
      fc.property(
        fc.record({
          startLsn: lsn,
          currentLsn: maybe,
          oldByTimeLsn: maybe,
          oldByBytesLsn: maybe,
          horizonLsn: maybe,
          standbyStartLsn: lsn,
          durableLsn: lsn,
        }),
        (bounds) => {
          const next = nextCutoff(bounds)
          if (next === null) return
          expect(next).toBeGreaterThan(bounds.currentLsn ?? 0)
          expect(next).toBeGreaterThan(bounds.startLsn)
          expect(next).toBeLessThanOrEqual(bounds.durableLsn)
          expect(next).toBeLessThanOrEqual(bounds.standbyStartLsn)
          expect(next).toBeLessThanOrEqual(bounds.horizonLsn ?? 1000)
          expect(
            [bounds.oldByTimeLsn, bounds.oldByBytesLsn].some((one) => next <= (one ?? 0)),
          ).toBe(true)
        },
      ),
    )
  })
})

describe('what is kept below the cutoff', () => {
  test('a leased LSN, and no other; over a restart; until the lease is swept', async () => {
    const timeline = await create([0, 0, 0, 0, 0])
    timeline.retention.lease(at(2))
    timeline.retention.lease(at(2))
    expect((await collect()).retainedPoints).toEqual([at(2), at(4)])
    await expectRound(timeline, 2, at(2))
    await expect(timeline.readPage(slotOf(timeline), 0, at(2) + 8)).rejects.toMatchObject(isGone)
    expect(() => timeline.retention.lease(at(1))).toThrow('is gone')
    await server.restart({ wipeLocal: true })
    const again = server.tenant.timeline(id)
    await expectRound(again, 2, at(2))
    again.retention.lease(at(2))
    await collect()
    await expectRound(again, 2, at(2))
    // Lapsed, and swept by the collection.
    again.retention.leases.sweep(Number.POSITIVE_INFINITY)
    expect(await collect()).toMatchObject({ retainedPoints: [at(4)] })
    await expect(again.readPage(slotOf(again), 0, at(2))).rejects.toMatchObject(isGone)
    expect(() => again.retention.lease(at(2))).toThrow('is gone')
    await server.restart()
    const last = server.tenant.timeline(id)
    await expect(last.readPage(slotOf(last), 0, at(2))).rejects.toMatchObject(isGone)
    await expectRound(last, 4, at(4))
  })

  test.each(['at once', 'after a restart'])(
    'a lease through archive and unarchive, %s',
    async (when) => {
      const timeline = await create([0, 0, 0, 0, 0])
      timeline.retention.lease(at(1))
      // Above the cutoff, where no manifest names it for collection's sake.
      timeline.retention.lease(at(3))
      await collect(WEEK_MS, at(4) - at(2))
      expect(timeline.gcCutoffLsn).toBe(at(2))
      const other = newTimelineId()
      const place = { ancestorTimelineId: id, ancestorLsn: at(4) }
      await server.tenant.branchTimeline(other, place)
      await server.tenant.lives.detach(other, place)
      await server.tenant.lives.archive(id)
      if (when === 'after a restart') await server.restart({ wipeLocal: true })
      const again = await server.tenant.lives.unarchive(id)
      await again.confirm()
      expect(again.retention.leases.points).toEqual([at(1), at(3)])
      expect((await collect()).retainedPoints).toEqual([at(1), at(3), at(4)])
      await expectRound(again, 1, at(1))
      await expectRound(again, 3, at(3))
      await expect(again.readPage(slotOf(again), 0, at(2))).rejects.toMatchObject(isGone)
      // One that lapsed before it was put away is not brought back.
      again.retention.leases.sweep(Number.POSITIVE_INFINITY)
      again.retention.lease(at(4))
      await server.tenant.lives.archive(id)
      expect((await server.tenant.lives.unarchive(id)).retention.leases.points).toEqual([at(4)])
    },
  )

  test('no lease and no horizon of what a job holds below the cutoff: they would not outlive it', async () => {
    const timeline = await create([0, 0, 0])
    const release = timeline.retention.hold(at(1))
    await collect()
    await expectRound(timeline, 1, at(1))
    expect(() => timeline.retention.lease(at(1))).toThrow('is gone')
    expect(() => timeline.retention.holdHorizon('replica', at(1))).toThrow('is gone')
    release()
  })

  test('what is held, as long as it is held', async () => {
    const timeline = await create([0, 0, 0])
    const release = timeline.retention.hold(at(1))
    const other = timeline.retention.hold(at(1))
    expect((await collect()).retainedPoints).toEqual([at(1), at(2)])
    release()
    release()
    await collect()
    await expectRound(timeline, 1, at(1))
    other()
    expect((await collect()).retainedPoints).toEqual([at(2)])
    expect(() => timeline.retention.hold(at(1))).toThrow('is gone')
  })

  test('a standby holds the cutoff, one renewal late', async () => {
    const timeline = await create([0, 0, 0, 0, 0])
    const { retention } = timeline
    retention.holdHorizon('replica', at(1))
    expect((await collect()).cutoffLsn).toBe(at(1))
    retention.holdHorizon('replica', at(3))
    expect((await collect()).cutoffLsn).toBe(at(1))
    retention.holdHorizon('replica', at(3))
    expect((await collect()).cutoffLsn).toBe(at(3))
    retention.leases.sweep(Number.POSITIVE_INFINITY)
    expect((await collect()).cutoffLsn).toBe(at(4))
  })

  test('a lease that has lapsed, until the manifest does not name it any more', async () => {
    const { retention } = await create([0, 0, 0, 0, 0])
    retention.lease(at(1))
    await collect()
    retention.leases.sweep(Number.POSITIVE_INFINITY)
    // A restart would grant it anew, so nothing of it may be rewritten yet.
    expect(retention.retainedPoints()).toEqual([at(1), at(4)])
    expect((await collect()).retainedPoints).toEqual([at(4)])
  })

  test('branch points, also of branches of branches and archived ones', async () => {
    await create([0, 0, 0, 0, 0])
    const child = newTimelineId()
    const grandchild = newTimelineId()
    await server.tenant.branchTimeline(child, { ancestorTimelineId: id, ancestorLsn: at(2) })
    await server.tenant.branchTimeline(grandchild, {
      ancestorTimelineId: child,
      ancestorLsn: at(2),
    })
    expect((await collect()).retainedPoints).toEqual([at(2), at(4)])
    await server.tenant.lives.archive(grandchild)
    await server.tenant.lives.archive(child)
    expect((await collect()).retainedPoints).toEqual([at(2), at(4)])
    await server.restart({ wipeLocal: true })
    expect((await collect()).retainedPoints).toEqual([at(2), at(4)])
    await server.tenant.lives.unarchive(child)
    const open = await server.tenant.lives.unarchive(grandchild)
    await expectRound(open, 2, at(2))
    await server.tenant.lives.delete(grandchild)
    await server.tenant.lives.delete(child)
    const last = await collect()
    expect(last.retainedPoints).toEqual([at(4)])
    expect(last.removedLayers).toBeGreaterThan(0)
  })
})

describe('a collection', () => {
  test('that meets the making of branches loses nothing that one of them needs', async () => {
    const timeline = await create([0, 0])
    for (let round = 2; round < 20; round++) {
      putRound(timeline, round)
      await timeline.createImageLayers()
      const making = [round - 2, round - 1, round].map((from, delay) =>
        Promise.resolve()
          .then(() => new Promise((resolve) => setTimeout(resolve, (round * delay) % 5)))
          .then(() =>
            server.tenant.branchTimeline(newTimelineId(), {
              ancestorTimelineId: id,
              ancestorLsn: at(from),
            }),
          )
          .then((branch) => ({ branch, from })),
      )
      const collecting = collect()
      for (const result of await Promise.allSettled(making)) {
        if (result.status === 'rejected') expect(result.reason).toMatchObject(isGone)
        else await expectRound(result.value.branch, result.value.from, result.value.branch.startLsn)
      }
      await collecting
    }
    for (const branch of server.tenant.timelines()) {
      if (branch.ancestor === null) continue
      await expectRound(branch, (branch.startLsn - START_LSN) / 800, branch.startLsn)
    }
    expect(server.tenant.timelines().length).toBeGreaterThan(10)
  })

  // The first change makes the cutoff durable, the second one takes the layers away.
  test.each([1, 2])('cut off after its change %i is finished by the next', async (count) => {
    await create([0, 0, 0, 0])
    let seen = 0
    server.onStep = (step) => {
      if (step === 'change-written' && ++seen === count) throw new Error('cut off')
    }
    await expect(collect()).rejects.toThrow('cut off')
    server.onStep = () => undefined
    await server.restart()
    const timeline = server.tenant.timeline(id)
    expect(timeline.gcCutoffLsn).toBe(at(3))
    await expect(timeline.readPage(slotOf(timeline), 0, at(1))).rejects.toMatchObject(isGone)
    await expectRound(timeline, 3, at(3))
    expect((await collect()).removedLayers > 0).toBe(count === 1)
    await server.restart({ wipeLocal: true })
    await expectRound(server.tenant.timeline(id), 3, at(3))
  })

  test('rests after an attach, without settings, and while the control plane is silent', async () => {
    await create([0, 0, 0])
    let restMs = HOUR_MS
    let answer: () => boolean = () => true
    await using collectors = new AsyncDisposableStack()
    const collector = () => {
      const one = new GarbageCollector({
        tenants: () => [server.tenant],
        periodMs: HOUR_MS,
        restMs,
        confirm: async () => answer(),
        log: { info() {}, warn() {} } as unknown as Logger,
        metrics: createGcMetrics(createMetrics('test')),
      })
      collectors.defer(() => one.stop())
      return one
    }
    await expect(collector().collect(server.tenant, id)).rejects.toThrow(/rests for 3[56]\d\d s/)
    restMs = 0
    await expect(collector().collect(server.tenant, id)).rejects.toThrow('has not said how much')
    server.tenant.history = { pitrIntervalMs: 0, pitrBytes: null }
    answer = () => false
    await expect(collector().collect(server.tenant, id)).rejects.toThrow('another page server')
    answer = () => {
      throw new Error('no route')
    }
    restMs = 500
    await new Promise((resolve) => setTimeout(resolve, restMs))
    const shy = collector()
    await expect(shy.collect(server.tenant, id)).rejects.toThrow('does not answer (no route)')
    answer = () => true
    await expect(shy.collect(server.tenant, id)).rejects.toThrow('did not answer a moment ago')
    // A machine that stops for a moment makes it rest anew.
    const removed = async () =>
      (await shy.collect(server.tenant, id).catch(() => null))?.removedLayers
    await expect.poll(removed).toBeGreaterThan(0)
  })

  test('rests from when the tenant is ours alone: what another holder promised may come late', async () => {
    const { tenant } = server
    const begun = tenant.attachedAtMs
    await tenant.become('multi')
    expect(tenant.attachedAtMs).toBe(begun)
    await sleep(5)
    await tenant.become('attached')
    const alone = tenant.attachedAtMs
    expect(alone).toBeGreaterThan(begun)
    await sleep(5)
    await tenant.become('attached')
    expect(tenant.attachedAtMs).toBe(alone)
  })

  test('rests after a silence of the control plane that lay between two collections', async () => {
    await create([0, 0, 0])
    server.tenant.history = { pitrIntervalMs: 0, pitrBytes: null }
    await sleep(1000)
    let asked = 0
    let isSilent = true
    const collector = new GarbageCollector({
      tenants: () => [server.tenant],
      periodMs: HOUR_MS,
      restMs: 1000,
      confirm: async () => {
        asked++
        if (isSilent) throw new Error('no route')
        return true
      },
      log: { info() {}, warn() {} } as unknown as Logger,
      metrics: createGcMetrics(createMetrics('test')),
    })
    await expect.poll(() => asked, { interval: 10 }).toBeGreaterThan(0)
    isSilent = false
    const back = performance.now()
    const now = () => collector.collect(server.tenant, id)
    await expect(now()).rejects.toThrow('did not answer a moment ago')
    await expect.poll(async () => (await now().catch(() => null))?.cutoffLsn).toBe(at(2))
    expect(performance.now() - back).toBeGreaterThan(700)
    await collector.stop()
    const before = asked
    await sleep(300)
    expect(asked).toBe(before)
  })
})

test('leases live until they are swept after their time', () => {
  const leases = new Leases()
  leases.grant(8, 100)
  leases.grant(16, 50)
  leases.grant(16, 20)
  leases.sweep(49)
  expect(leases.points).toEqual([8, 16])
  leases.sweep(50)
  expect(leases.points).toEqual([8])
  expect(leases.has(16)).toBe(false)
})

test('reads that began before are waited for, later ones are not', async () => {
  const reads = new ReadsInFlight()
  await reads.earlier()
  const first = reads.enter()
  const second = reads.enter()
  let done = 0
  const waiting = reads.earlier().then(() => done++)
  reads.enter()
  const again = reads.earlier().then(() => done++)
  first.leave()
  await Promise.resolve()
  expect(done).toBe(0)
  second.leave()
  await waiting
  expect(done).toBe(1)
  void again
})
