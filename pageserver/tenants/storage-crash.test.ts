/**
 * Failures and crashes at each step of a flush, damaged files, lost disks: what was told to be
 * durable is there, what is damaged is named and never served.
 */
import { readdir, readFile, rm, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { localFolder } from '../remote/paths.ts'
import type { StorageStep } from '../timeline/storage-context.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { ScratchServer } from './testing/scratch-server.ts'

const START_LSN = 0x2000000
const BLOCKS = 64

let server: ScratchServer
let id: TimelineId

beforeEach(async () => {
  server = await ScratchServer.start({ imageDepth: 1000, imageAfterDeltas: 1000 })
  id = newTimelineId()
})
afterEach(async () => {
  await server.stop()
})

function pageOf(fill: number, blk: number): Buffer {
  const page = Buffer.alloc(PAGE_SIZE)
  // Bytes that do not compress, so that chunks lie in the file as they are.
  for (let at = 0; at < PAGE_SIZE; at += 4) {
    page.writeUInt32LE(Math.imul(at + fill * 7919 + blk * 104729, 2654435761) >>> 0, at)
  }
  return page
}

function blockSlot(timeline: Timeline): number {
  return timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
}

function putSize(timeline: Timeline, rel: number, blocks: number | null, lsn: number): void {
  const value = Buffer.alloc(blocks === null ? 0 : 4)
  if (blocks !== null) value.writeUInt32LE(blocks)
  const kind = blocks === null ? ValueKind.Tombstone : ValueKind.Image
  const slot = timeline.slot(KeyClass.RelSize, 1, 2, rel, 0)
  timeline.put(slot, 0, lsn, kind, value, 0, value.length)
}

function putRound(timeline: Timeline, fill: number, lsn: number): void {
  const slot = blockSlot(timeline)
  putSize(timeline, 3, BLOCKS, lsn)
  for (let blk = 0; blk < BLOCKS; blk++) {
    timeline.put(slot, blk, lsn, ValueKind.Image, pageOf(fill, blk), 0, PAGE_SIZE)
  }
  timeline.publish(lsn)
}

function latestSizes(timeline: Timeline): (number | undefined)[] {
  const slot = (rel: number) => timeline.slot(KeyClass.RelSize, 1, 2, rel, 0)
  return [3, 4, 5].map((rel) => timeline.latestRelSize(slot(rel)))
}

async function create(): Promise<Timeline> {
  const facts = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  return await server.tenant.createTimeline(id, facts, async (timeline) => {
    putRound(timeline, 0, START_LSN)
  })
}

async function expectRound(timeline: Timeline, fill: number, lsn: number): Promise<void> {
  const slot = blockSlot(timeline)
  const pages = await timeline.readPages(slot, 0, BLOCKS, lsn)
  for (let blk = 0; blk < BLOCKS; blk++) {
    const found = pages.subarray(blk * PAGE_SIZE, (blk + 1) * PAGE_SIZE)
    expect(found.equals(pageOf(fill, blk)), `block ${blk} at ${lsn}`).toBe(true)
  }
}

/** Replaces a layer file in place of changing it: its object may be the same inode. */
async function damage(path: string, change: (bytes: Buffer) => Buffer): Promise<void> {
  const bytes = await readFile(path)
  await unlink(path)
  await writeFile(path, change(bytes))
}

async function layerPaths(): Promise<string[]> {
  const folder = localFolder(server.localFolder, server.tenantId, id)
  return (await readdir(folder)).map((name) => join(folder, name))
}

const STEPS: StorageStep[] = [
  'delta-written',
  'delta-renamed',
  'layer-uploaded',
  'manifest-written',
]

describe('a failure in a flush', () => {
  for (const failing of STEPS) {
    test(`at ${failing}: a crash loses only what was not durable`, async () => {
      const timeline = await create()
      putRound(timeline, 1, START_LSN + 800)
      server.onStep = (step) => {
        if (step === failing) throw new Error(`stop at ${step}`)
      }
      await expect(timeline.flush()).rejects.toThrow('stop at')
      const remoteLsn = timeline.remoteConsistentLsn
      server.onStep = () => undefined
      await server.restart()
      const again = server.tenant.timeline(id)
      expect(again.lastRecordLsn).toBeGreaterThanOrEqual(remoteLsn)
      expect(again.lastRecordLsn).toBe(failing === 'manifest-written' ? START_LSN + 800 : START_LSN)
      await expectRound(again, 0, START_LSN)
      if (again.lastRecordLsn === START_LSN) putRound(again, 1, START_LSN + 800)
      await expectRound(again, 1, START_LSN + 800)
      await again.flush()
      await server.restart({ wipeLocal: true })
      await expectRound(server.tenant.timeline(id), 0, START_LSN)
      await expectRound(server.tenant.timeline(id), 1, START_LSN + 800)
    })

    test(`at ${failing}: the next flush makes it good`, async () => {
      const timeline = await create()
      putRound(timeline, 1, START_LSN + 800)
      let failed = false
      server.onStep = (step) => {
        if (step !== failing || failed) return
        failed = true
        throw new Error(`stop at ${step}`)
      }
      await expect(timeline.flush()).rejects.toThrow('stop at')
      await expectRound(timeline, 1, START_LSN + 800)
      putRound(timeline, 2, START_LSN + 1600)
      await timeline.flush()
      expect(timeline.remoteConsistentLsn).toBe(START_LSN + 1600)
      await server.restart({ wipeLocal: true })
      await expectRound(server.tenant.timeline(id), 1, START_LSN + 1592)
      await expectRound(server.tenant.timeline(id), 2, START_LSN + 1600)
    })
  }

  test('a bootstrap cut short leaves no timeline, and can be repeated', async () => {
    server.onStep = (step) => {
      if (step === 'layer-uploaded') throw new Error('cut')
    }
    await expect(create()).rejects.toThrow('cut')
    expect(() => server.tenant.timeline(id)).toThrow('no timeline')
    server.onStep = () => undefined
    const timeline = await create()
    await expectRound(timeline, 0, START_LSN)
    expect(await create()).toBe(timeline)
  })

  test('images cut short do no harm', async () => {
    const timeline = await create()
    putRound(timeline, 1, START_LSN + 800)
    server.onStep = (step) => {
      if (step === 'layers-uploaded') throw new Error('cut')
    }
    await expect(timeline.createImageLayers()).rejects.toThrow('cut')
    server.onStep = () => undefined
    await server.restart()
    const again = server.tenant.timeline(id)
    await expectRound(again, 1, START_LSN + 800)
    await again.createImageLayers()
    expect(again.layers.imageLsns).toEqual([START_LSN + 800])
    await expectRound(again, 1, START_LSN + 800)
    await expectRound(again, 0, START_LSN + 792)
  })
})

describe('damage', () => {
  test('a flipped bit in a local chunk is found and mended from object storage', async () => {
    await create()
    const [path] = await layerPaths()
    await damage(path as string, (bytes) => {
      bytes.writeUInt8(bytes.readUInt8(5000) ^ 1, 5000)
      return bytes
    })
    await server.restart()
    await expectRound(server.tenant.timeline(id), 0, START_LSN)
  })

  test('damage in both copies is named, never served', async () => {
    await create()
    const [path] = await layerPaths()
    const bytes = await readFile(path as string)
    bytes.writeUInt8(bytes.readUInt8(5000) ^ 1, 5000)
    // In place: both names are the same file.
    await writeFile(path as string, bytes)
    await server.restart()
    const timeline = server.tenant.timeline(id)
    const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
    await expect(timeline.readPages(slot, 0, BLOCKS, START_LSN)).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringMatching(/layer delta_.* is damaged: chunk 0 .*wrong checksum/),
    })
  })

  for (const [what, change] of [
    ['cut short', (bytes: Buffer) => bytes.subarray(0, bytes.length - 100)],
    ['empty', () => Buffer.alloc(0)],
    ['of another layer', (bytes: Buffer) => Buffer.from(bytes.toReversed())],
  ] as const) {
    test(`a local file that is ${what} is fetched again`, async () => {
      await create()
      const [path] = await layerPaths()
      await damage(path as string, change)
      await server.restart()
      await expectRound(server.tenant.timeline(id), 0, START_LSN)
    })
  }

  test('a layer missing everywhere is named', async () => {
    const timeline = await create()
    const name = timeline.layers.newestFirst[0]?.objectName as string
    await server.store.delete(name)
    await server.restart({ wipeLocal: true })
    const again = server.tenant.timeline(id)
    const slot = again.slot(KeyClass.RelBlock, 1, 2, 3, 0)
    await expect(again.readPages(slot, 0, 1, START_LSN)).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining('cannot be fetched'),
    })
  })

  test('a damaged manifest breaks its timeline and no other', async () => {
    await create()
    const other = newTimelineId()
    await server.tenant.branchTimeline(other, { ancestorTimelineId: id, ancestorLsn: START_LSN })
    const folder = join(server.folder, 'objects', 'tenants', server.tenantId, 'timelines', other)
    const [name] = await readdir(join(folder, 'manifests'))
    await damage(join(folder, 'manifests', name as string), (bytes) =>
      Buffer.from(bytes.toString().replace('"layers":[]', '"layers":[ ]')),
    )
    await server.restart()
    await expectRound(server.tenant.timeline(id), 0, START_LSN)
    expect(() => server.tenant.timeline(other)).toThrow(/cannot be opened: .*checksum/)
    expect(server.errors.join()).toContain(other)
  })
})

describe('branches', () => {
  test('take one small write, whatever the ancestor holds', async () => {
    const timeline = await create()
    const child = newTimelineId()
    const options = { ancestorTimelineId: id, ancestorLsn: START_LSN }
    const branch = await server.tenant.branchTimeline(child, options)
    expect(await server.tenant.branchTimeline(child, options)).toBe(branch)
    await expectRound(branch, 0, START_LSN)
    putRound(timeline, 1, START_LSN + 800)
    await expectRound(branch, 0, branch.lastRecordLsn)
    expect(branch.layers.newestFirst).toEqual([])
    await expect(
      server.tenant.branchTimeline(child, { ...options, ancestorLsn: START_LSN + 800 }),
    ).rejects.toMatchObject({ code: 'conflict' })
  })

  test('wait for their ancestor, and refuse what is no place in its history', async () => {
    const timeline = await create()
    const child = newTimelineId()
    const later = { ancestorTimelineId: id, ancestorLsn: START_LSN + 800, timeoutMs: 5_000 }
    const waiting = server.tenant.branchTimeline(child, later)
    setTimeout(() => putRound(timeline, 1, START_LSN + 800), 20)
    await expectRound(await waiting, 1, START_LSN + 800)
    const refuse = (ancestorLsn: number) =>
      expect(
        server.tenant.branchTimeline(newTimelineId(), { ...later, ancestorLsn, timeoutMs: 10 }),
      ).rejects
    await refuse(START_LSN - 8).toMatchObject({ code: 'out_of_range' })
    await refuse(START_LSN + 3).toMatchObject({ code: 'invalid_argument' })
    await refuse(START_LSN + 8000).toMatchObject({ code: 'timeout' })
  })

  test('keep the sizes of relations as they were at the branch point', async () => {
    const timeline = await create()
    await timeline.ready()
    putSize(timeline, 3, 5, START_LSN + 8)
    putSize(timeline, 4, 1, START_LSN + 8)
    timeline.publish(START_LSN + 8)
    putSize(timeline, 3, 9, START_LSN + 16)
    putSize(timeline, 4, null, START_LSN + 16)
    putSize(timeline, 5, 2, START_LSN + 24)
    timeline.publish(START_LSN + 24)
    for (const loaded of [true, false]) {
      if (!loaded) await server.restart({ clean: true })
      const ancestorLsn = START_LSN + 8
      const branch = await server.tenant.branchTimeline(newTimelineId(), {
        ancestorTimelineId: id,
        ancestorLsn,
      })
      await branch.ready()
      expect(latestSizes(branch)).toEqual([5, 1, undefined])
      expect(await branch.relSize(1, 2, 5, 0, ancestorLsn)).toBeNull()
      const main = server.tenant.timeline(id)
      await main.ready()
      expect(latestSizes(main)).toEqual([9, undefined, 2])
      expect(await main.relSize(1, 2, 3, 0, ancestorLsn)).toBe(5)
      expect(await main.relSize(1, 2, 4, 0, ancestorLsn)).toBe(1)
      expect(await main.relSize(1, 2, 4, 0, START_LSN + 24)).toBeNull()
    }
  })
})

describe('a branch of what was not yet durable', () => {
  test('reads wait after a crash until the ancestor has its WAL again', async () => {
    const timeline = await create()
    putRound(timeline, 1, START_LSN + 800)
    const [child, grandchild] = [newTimelineId(), newTimelineId()]
    const ancestorLsn = START_LSN + 800
    await server.tenant.branchTimeline(child, { ancestorTimelineId: id, ancestorLsn })
    await server.tenant.branchTimeline(grandchild, { ancestorTimelineId: child, ancestorLsn })
    await server.restart()
    const main = server.tenant.timeline(id)
    expect(main.lastRecordLsn).toBe(START_LSN)
    const reads = [child, grandchild].map(async (one) => {
      const branch = server.tenant.timeline(one)
      await branch.ready()
      await expectRound(branch, 1, branch.lastRecordLsn)
      expect(await branch.relSize(1, 2, 3, 0, branch.lastRecordLsn)).toBe(BLOCKS)
    })
    await new Promise((resolve) => setTimeout(resolve, 50))
    putRound(main, 1, START_LSN + 800)
    await Promise.all(reads)
  })
})

describe('the chain cap', () => {
  test('bounds the records that a read of a hot page applies', async () => {
    const timeline = await create()
    const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
    let lsn = START_LSN
    for (let round = 0; round < 50; round++) {
      for (let index = 0; index < 40; index++) {
        lsn += 8
        timeline.put(slot, 7, lsn, ValueKind.Record, Buffer.from(`record ${lsn}`), 0, 12)
      }
      timeline.publish(lsn)
      await timeline.settle()
    }
    server.toy.longestChain = 0
    const tip = await timeline.readPage(slot, 7, lsn)
    expect(tip.readDoubleLE(0)).toBe(lsn)
    expect(server.toy.longestChain).toBeLessThanOrEqual(128)
    for (const at of [START_LSN + 800, START_LSN + 8 * 999]) {
      const page = await timeline.readPage(slot, 7, at)
      expect(page.readDoubleLE(0)).toBe(at)
    }
    expect(server.toy.longestChain).toBeLessThanOrEqual(128)
    await timeline.flush()
    await server.restart({ wipeLocal: true })
    const again = server.tenant.timeline(id)
    expect((await again.readPage(blockSlot(again), 7, lsn)).equals(tip)).toBe(true)
    expect(server.toy.longestChain).toBeLessThanOrEqual(128)
  })
})

describe('a pause in the WAL', () => {
  test('is used to flush and to make images of what was written', async () => {
    await server.stop()
    server = await ScratchServer.start({
      imageDepth: 1000,
      imageAfterDeltas: 1000,
      idleBytes: 1000,
    })
    const timeline = await create()
    let lsn = START_LSN
    const slot = blockSlot(timeline)
    const tick = async () => {
      server.manager.tick(Date.now())
      await timeline.settle()
    }
    await tick()
    for (let blk = 0; blk < BLOCKS; blk++) {
      lsn += 8192
      timeline.put(slot, blk, lsn, ValueKind.Record, pageOf(9, blk), 0, 200)
    }
    timeline.publish(lsn)
    // WAL came since the last time: not idle.
    await tick()
    expect(timeline.diskConsistentLsn).toBe(START_LSN)
    await tick()
    expect(timeline.diskConsistentLsn).toBe(lsn)
    expect(timeline.layers.imageLsns).toEqual([])
    await tick()
    expect(timeline.layers.imageLsns).toEqual([lsn])
    const before = timeline.layers.version
    await tick()
    expect(timeline.layers.version).toBe(before)
    server.toy.calls = 0
    expect((await timeline.readPage(slot, 5, lsn)).readUInt32LE(12)).toBeGreaterThan(0)
    expect(server.toy.calls).toBe(0)
    // So a crash now costs no WAL to be taken in again.
    await server.restart()
    expect(server.tenant.timeline(id).lastRecordLsn).toBe(lsn)
  })
})

describe('generations', () => {
  test('a second page server of the same generation is noticed', async () => {
    const timeline = await create()
    putRound(timeline, 1, START_LSN + 800)
    // Another process under our generation has written the next manifest.
    const folder = `tenants/${server.tenantId}/timelines/${id}/manifests`
    await server.store.put(`${folder}/m-00000001-00000002`, Buffer.from('another'))
    await expect(timeline.flush()).rejects.toMatchObject({ code: 'fenced' })
  })

  test('a lower generation is refused, a higher one loads anew', async () => {
    await create()
    await expect(server.manager.attach(server.tenantId, 0)).rejects.toMatchObject({
      code: 'fenced',
    })
    const before = server.tenant
    expect(await server.manager.attach(server.tenantId, before.generation)).toBe(before)
    const after = await server.manager.attach(server.tenantId, before.generation + 5)
    await expectRound(after.timeline(id), 0, START_LSN)
    await rm(server.localFolder, { recursive: true, force: true })
  })
})
