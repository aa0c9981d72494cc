/** Merges of L0 layers in real timelines: what is read stays, whatever fails or dies on the way. */
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { StorageStep } from '../timeline/storage-context.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { FAILURES_TO_REST } from './scheduler.ts'
import { ThreadRunner } from './runner.ts'

const START_LSN = 0x3000000
const BLOCKS = 40
const CONFIG = { postgresPrefix: '', redoDir: '/nonexistent', redoProcesses: 1 }

let server: ScratchServer
let id: TimelineId
let lsn: number

beforeEach(async () => {
  server = await ScratchServer.start({
    imageDepth: 1e9,
    imageAfterDeltas: 1e9,
    l0CompactCount: 4,
    l1LayerBytes: 140_000,
  })
  id = newTimelineId()
})
afterEach(async () => {
  await server.stop()
})

async function create(): Promise<Timeline> {
  lsn = START_LSN
  const facts = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  return await server.tenant.createTimeline(id, facts, async (timeline) => {
    for (let rel = 1; rel <= 2; rel++) {
      const slot = timeline.slot(KeyClass.RelBlock, 1, 2, rel, 0)
      const page = Buffer.alloc(8192, rel)
      for (let blk = 0; blk < BLOCKS; blk++) {
        timeline.put(slot, blk, START_LSN, ValueKind.Image, page, 0, page.length)
      }
    }
  })
}

/** Bytes that do not compress. */
function noise(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length)
  let state = seed + 1
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[at] = state >>> 24
  }
  return bytes
}

/** Records for every other block, many for block 3, and a file of this branch alone. */
function putRound(timeline: Timeline, round: number): void {
  for (let rel = 1; rel <= 2; rel++) {
    const slot = timeline.slot(KeyClass.RelBlock, 1, 2, rel, 0)
    for (let blk = round % 2; blk < BLOCKS; blk += 2) {
      const record = noise(600, round * 1000 + rel * 100 + blk)
      lsn += 8
      timeline.put(slot, blk, lsn, ValueKind.Record, record, 0, record.length)
      if (blk !== 3) continue
      for (let more = 0; more < 500; more++) {
        lsn += 8
        timeline.put(slot, blk, lsn, ValueKind.Record, noise(600, lsn), 0, 600)
      }
    }
  }
  const aux = timeline.slot(KeyClass.AuxFile, 1, 2, 3, 0)
  const text = Buffer.from(`aux ${round}`)
  timeline.put(aux, 0, lsn, ValueKind.Image, text, 0, text.length)
  timeline.publish(lsn)
}

async function flushRounds(timeline: Timeline, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    putRound(timeline, round)
    await timeline.flush()
  }
}

/** All that a reader can see, at several LSNs. */
async function readAll(timeline: Timeline, lsns: readonly number[]): Promise<string[]> {
  const seen: string[] = []
  for (const at of lsns) {
    for (let rel = 1; rel <= 2; rel++) {
      const slot = timeline.slot(KeyClass.RelBlock, 1, 2, rel, 0)
      const pages = await timeline.readPages(slot, 0, BLOCKS, at)
      for (let blk = 0; blk < BLOCKS; blk++) {
        seen.push(pages.toString('latin1', blk * 8192, blk * 8192 + 80))
      }
    }
    seen.push(JSON.stringify(await timeline.scanBlobs(KeyClass.AuxFile, at)))
  }
  return seen
}

function someLsns(): number[] {
  return [START_LSN, START_LSN + 800, START_LSN + 4000, lsn - 1000, lsn]
}

function restartWith(script?: URL): Promise<void> {
  server.runner = (store) => new ThreadRunner(CONFIG, store, script)
  return server.restart({ clean: true })
}

describe('a merge of L0 layers', () => {
  test('comes by itself, gives layers of few keys, and changes no read', async () => {
    const timeline = await create()
    await flushRounds(timeline, 4)
    const before = await readAll(timeline, someLsns())
    await server.manager.compactor.settle()
    expect(timeline.layers.l0.length).toBeLessThan(4)
    const l1 = timeline.layers.newestFirst.filter((layer) => !layer.isL0)
    expect(l1.length).toBeGreaterThan(3)
    // Block 3 alone is larger than a file: it has several, one after the other in LSNs.
    const hot = l1.filter(({ id: { firstKey, lastKey } }) => {
      return firstKey.rel === 1 && firstKey.blk === 3 && lastKey.blk === 3 && lastKey.rel === 1
    })
    expect(hot.length).toBeGreaterThan(1)
    for (const [index, layer] of hot.slice(1).entries()) {
      expect(layer.endLsn).toBe(hot[index]?.id.startLsn)
    }
    expect(await readAll(timeline, someLsns())).toEqual(before)
    await server.restart({ wipeLocal: true })
    expect(await readAll(server.tenant.timeline(id), someLsns())).toEqual(before)
    expect(server.manager.compactor.stats.failed.l0).toBe(0)
  })

  test('runs in a thread, which fetches what is not on disk', async () => {
    await restartWith()
    await flushRounds(await create(), 2)
    const before = await readAll(server.tenant.timeline(id), someLsns())
    await server.restart({ wipeLocal: true })
    const timeline = server.tenant.timeline(id)
    expect(timeline.layers.l0.length).toBe(3)
    expect(await timeline.compaction.compactL0()).toBe(true)
    expect(timeline.layers.l0.length).toBe(0)
    expect(await timeline.compaction.compactL0()).toBe(false)
    expect(await readAll(timeline, someLsns())).toEqual(before)
  })

  test('of layers taken over drops what the branch does not inherit', async () => {
    const timeline = await create()
    await flushRounds(timeline, 2)
    const ancestorLsn = lsn - 400
    const child = newTimelineId()
    await server.tenant.branchTimeline(child, { ancestorTimelineId: id, ancestorLsn })
    const lsns = [ancestorLsn]
    const before = await readAll(server.tenant.timeline(child), lsns)
    await server.tenant.lives.detach(child, { ancestorTimelineId: id, ancestorLsn })
    const detached = server.tenant.timeline(child)
    expect(detached.layers.l0.length).toBe(3)
    expect(await detached.compaction.compactL0()).toBe(true)
    const own = detached.layers.newestFirst
    expect(own.every((layer) => layer.origin === null && layer.endLsn <= ancestorLsn + 1)).toBe(
      true,
    )
    for (const layer of own) {
      await layer.load()
      const classes = [...layer.index.groupSlot].map((slot) => detached.source.slots.cls(slot))
      expect(classes).not.toContain(KeyClass.AuxFile)
    }
    expect(await readAll(detached, lsns)).toEqual(before)
  })
})

describe('a merge that fails', () => {
  const steps: StorageStep[] = ['layers-uploaded', 'change-written']
  for (const failing of steps) {
    test(`at ${failing} leaves the old layers or the new ones, through a crash too`, async () => {
      const timeline = await create()
      await flushRounds(timeline, 2)
      const before = await readAll(timeline, someLsns())
      server.onStep = (step) => {
        if (step === failing) throw new Error(`stop at ${step}`)
      }
      await expect(timeline.compaction.compactL0()).rejects.toThrow('stop at')
      server.onStep = () => undefined
      expect(await readAll(timeline, someLsns())).toEqual(before)
      await server.restart()
      const again = server.tenant.timeline(id)
      expect(again.layers.l0.length).toBe(failing === 'layers-uploaded' ? 3 : 0)
      expect(await readAll(again, someLsns())).toEqual(before)
      expect(await again.compaction.compactL0()).toBe(failing === 'layers-uploaded')
      await server.restart({ wipeLocal: true })
      expect(await readAll(server.tenant.timeline(id), someLsns())).toEqual(before)
    })
  }

  test('leaves no file behind', async () => {
    const timeline = await create()
    await flushRounds(timeline, 2)
    server.onStep = (step) => {
      if (step === 'layers-uploaded') throw new Error('stop')
    }
    await expect(timeline.compaction.compactL0()).rejects.toThrow('stop')
    const folder = join(server.localFolder, 'tenants', server.tenantId, 'timelines', id)
    const names = timeline.layers.newestFirst.map((layer) => layer.fileName)
    expect((await readdir(folder)).sort()).toEqual(names.sort())
  })

  test('with its thread does no harm, and the next one has a new thread', async () => {
    await restartWith(new URL('./testing/dying-worker.ts', import.meta.url))
    const timeline = await create()
    await flushRounds(timeline, 2)
    const before = await readAll(timeline, someLsns())
    for (let time = 0; time < 2; time++) {
      await expect(timeline.compaction.compactL0()).rejects.toThrow(
        'the compaction thread is gone: the thread dies of this',
      )
    }
    await restartWith()
    const again = server.tenant.timeline(id)
    expect(await again.compaction.compactL0()).toBe(true)
    expect(await readAll(again, someLsns())).toEqual(before)
  })

  test('names a layer that is damaged everywhere', async () => {
    await restartWith()
    const timeline = await create()
    await flushRounds(timeline, 2)
    await server.store.delete(timeline.layers.newestFirst[1]?.objectName as string)
    await server.restart({ wipeLocal: true })
    const again = server.tenant.timeline(id)
    await expect(again.compaction.compactL0()).rejects.toThrow(/layer delta_.*cannot be fetched/)
    expect(again.layers.l0.length).toBe(3)
  })

  test('again and again rests, and the log says so', async () => {
    await restartWith(new URL('./testing/dying-worker.ts', import.meta.url))
    const timeline = await create()
    const { compactor } = server.manager
    await flushRounds(timeline, 3)
    let nowMs = Date.now()
    const clock = vi.spyOn(Date, 'now').mockImplementation(() => nowMs)
    try {
      for (let time = 1; time <= FAILURES_TO_REST; time++) {
        await compactor.settle()
        expect(compactor.stats.failed.l0).toBe(time)
        // Longer than any wait before the rest.
        nowMs += 60_000
        compactor.wake()
      }
      await compactor.settle()
    } finally {
      clock.mockRestore()
    }
    expect(compactor.stats).toMatchObject({ failed: { l0: FAILURES_TO_REST }, resting: 1 })
    expect(server.errors.join()).toContain('compaction failed 5 times in a row and rests 600 s')
  })
})

test('closing a timeline ends the merge under way', async () => {
  await restartWith()
  const timeline = await create()
  await flushRounds(timeline, 2)
  const before = await readAll(timeline, someLsns())
  const merge = timeline.compaction.compactL0().catch((error: unknown) => error)
  await server.restart()
  await merge
  expect(await readAll(server.tenant.timeline(id), someLsns())).toEqual(before)
  await rm(server.localFolder, { recursive: true, force: true })
})

test('while compaction is behind, flushes wait, and who asks for one does not', async () => {
  await server.stop()
  server = await ScratchServer.start({
    imageDepth: 1e9,
    imageAfterDeltas: 1e9,
    l0CompactCount: 1000,
    l0DelayCount: 2,
    l0DelayMs: 60,
    l0MaxDelayMs: 150,
  })
  const timeline = await create()
  await flushRounds(timeline, 3)
  expect(timeline.flushDelayedMs).toBe(0)
  putRound(timeline, 3)
  timeline.relieve()
  await timeline.settle()
  expect(timeline.flushDelayedMs).toBeGreaterThanOrEqual(140)
  expect(timeline.diskConsistentLsn).toBe(lsn)
  const delayed = timeline.flushDelayedMs
  putRound(timeline, 4)
  await timeline.flush()
  expect(timeline.flushDelayedMs).toBeLessThan(delayed + 150)
})

test('what was dropped stays dropped through every set of images', async () => {
  await server.stop()
  server = await ScratchServer.start({ maxImageSets: 2, imageDeltaBytes: 1 })
  const timeline = await create()
  const slot = timeline.slot(KeyClass.TwoPhase, 0, 0, 77, 0)
  const other = timeline.slot(KeyClass.TwoPhase, 0, 0, 78, 0)
  const put = (at: number, kind: ValueKind, text: string) => {
    lsn += 8
    timeline.put(at, 0, lsn, kind, Buffer.from(text), 0, text.length)
    timeline.publish(lsn)
  }
  put(slot, ValueKind.Image, 'lives')
  await timeline.createImageLayers()
  put(slot, ValueKind.Tombstone, '')
  const droppedLsn = lsn
  for (let round = 0; round < 5; round++) {
    put(other, ValueKind.Image, `round ${round}`)
    await timeline.createImageLayers()
    expect(await timeline.readBlob(slot, 0, lsn)).toBeNull()
    expect((await timeline.scanBlobs(KeyClass.TwoPhase, lsn)).map(({ rel }) => rel)).toEqual([78])
  }
  const before = await timeline.readBlob(slot, 0, droppedLsn - 8)
  expect(before?.toString()).toBe('lives')
})

test('an image of all keys holds those that only rewritten history has', async () => {
  await server.stop()
  server = await ScratchServer.start({
    maxImageSets: 4,
    imageDeltaBytes: 1e9,
    bottomGainBytes: 1,
    imageAfterDeltas: 1e9,
  })
  const timeline = await create()
  const put = (name: number, length = 10) => {
    lsn += 8
    const slot = timeline.slot(KeyClass.TwoPhase, 0, 0, name, 0)
    timeline.put(slot, 0, lsn, ValueKind.Image, noise(length, lsn), 0, length)
    timeline.publish(lsn)
  }
  // So large that images of what changed weigh little beside it.
  put(77, 50_000)
  timeline.retention.lease(lsn)
  await timeline.createImageLayers()
  put(78)
  await timeline.createImageLayers()
  const cutoffLsn = lsn
  put(79)
  await timeline.createImageLayers()
  timeline.retention.raiseCutoff(cutoffLsn)
  await timeline.change({ gcCutoffLsn: cutoffLsn, leasedLsns: timeline.retention.leases.points })
  const layers = timeline.layers.newestFirst.length
  await timeline.compaction.compactBottom()
  expect(timeline.layers.newestFirst.length).not.toBe(layers)
  for (let round = 0; round < 4; round++) {
    put(79)
    await timeline.createImageLayers()
  }
  const names = (await timeline.scanBlobs(KeyClass.TwoPhase, lsn)).map(({ rel }) => rel)
  expect(names).toEqual([77, 78, 79])
})
