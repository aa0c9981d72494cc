/** The check against what real flushes left: whole, then with one thing wrong at a time. */
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { checkStorage, type StorageReport } from './storage-check.ts'

const START_LSN = 0x1000000
const PAGES = 400

let server: ScratchServer
let id: TimelineId

beforeEach(async () => {
  server = await ScratchServer.start()
  id = newTimelineId()
  const facts = { startLsn: START_LSN, systemId: '1', pgVersion: 170011 }
  await server.tenant.createTimeline(id, facts, async (timeline) => fill(timeline, START_LSN))
  await server.tenant.branchTimeline(newTimelineId(), {
    ancestorTimelineId: id,
    ancestorLsn: START_LSN,
  })
  fill(server.tenant.timeline(id), START_LSN + 800)
  await server.tenant.timeline(id).flush()
})
afterEach(async () => {
  await server.stop()
})

/** Pages that do not compress, so that a file has many chunks. */
function fill(timeline: Timeline, lsn: number): void {
  const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
  const page = Buffer.alloc(PAGE_SIZE)
  let state = lsn
  for (let blk = 0; blk < PAGES; blk++) {
    for (let at = 0; at < PAGE_SIZE; at += 4) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      page.writeUInt32LE(state, at)
    }
    timeline.put(slot, blk, lsn, ValueKind.Image, page, 0, PAGE_SIZE)
  }
  timeline.publish(lsn)
}

function check(options: { quick?: boolean; removeOrphans?: boolean } = {}): Promise<StorageReport> {
  return checkStorage(server.store, {
    quick: options.quick ?? false,
    removeOrphans: options.removeOrphans ?? false,
    onProgress: () => undefined,
  })
}

function someLayer(): { name: string; path: string } {
  const name = server.tenant.timeline(id).layers.newestFirst[0]?.objectName as string
  return { name, path: join(server.folder, 'objects', name) }
}

/** Objects may be links to the files of the page server: a damaged one becomes a file of its own. */
function damage(path: string, at: number): void {
  const bytes = readFileSync(path)
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at)
  rmSync(path)
  writeFileSync(path, bytes)
}

test('what was flushed is whole, and all of it is read', async () => {
  const seen: number[] = []
  const report = await checkStorage(server.store, {
    quick: false,
    removeOrphans: false,
    onProgress: ({ layers }) => seen.push(layers),
  })
  expect(report).toMatchObject({ tenants: 1, timelines: 2, problems: [], orphans: [] })
  expect(report.unsettled).toEqual([])
  expect(report.layers).toBe(server.tenant.timeline(id).layers.newestFirst.length)
  expect(report.layerBytes).toBeGreaterThan(2 * PAGES * PAGE_SIZE)
  expect(seen).toHaveLength(report.layers)
})

test('a flipped bit anywhere is found, and the object named', async () => {
  const { name, path } = someLayer()
  const whole = readFileSync(path)
  for (let at = 0; at < whole.length; at += 90_001) {
    damage(path, at)
    const { problems } = await check()
    expect(problems, `byte ${at}`).toHaveLength(1)
    expect(problems[0]).toContain(name)
    writeFileSync(path, whole)
  }
  for (const at of [whole.length - 1, whole.length - 70]) {
    damage(path, at)
    expect((await check({ quick: true })).problems[0]).toContain(name)
    writeFileSync(path, whole)
  }
})

test('an object that is missing or cut short is named', async () => {
  const { name, path } = someLayer()
  const whole = readFileSync(path)
  rmSync(path)
  expect((await check({ quick: true })).problems).toEqual([`object ${name} is missing`])
  writeFileSync(path, whole)
  truncateSync(path, whole.length - 8)
  expect((await check({ quick: true })).problems[0]).toMatch(/is damaged: it has \d+ bytes/)
})

test('a damaged manifest is a problem, and then nothing is called an orphan', async () => {
  const layer = someLayer().name
  const orphan = layer.replace(/-0000000\d(?=$|-)/, '-00000000')
  await server.store.put(orphan, Buffer.from('left behind'))
  const folder = layer.replace(/layers\/.*/, 'manifests')
  const { objects } = await server.store.list(folder)
  damage(join(server.folder, 'objects', objects.at(-1)?.name as string), 60)
  const report = await check({ removeOrphans: true })
  expect(report.problems.join()).toContain(id)
  expect(report.orphans).toEqual([])
  expect(report.removedOrphans).toBe(0)
})

test('objects of earlier generations that nobody names are orphans, younger ones may be on their way', async () => {
  const layer = someLayer().name
  await server.restart()
  fill(server.tenant.timeline(id), START_LSN + 1600)
  await server.tenant.timeline(id).flush()
  const left = layer.replace(/[0-9A-F]{16}-[0-9A-F]{16}(?=-0)/, '0000000000000008-0000000000000010')
  const coming = left.replace(/-00000001(?=$|-)/, '-00000002')
  expect(coming).not.toBe(left)
  await server.store.put(left, Buffer.from('left behind'))
  await server.store.put(coming, Buffer.from('on its way'))
  const report = await check()
  expect(report.problems).toEqual([])
  expect(report.orphans.map(({ name }) => name)).toEqual([left])
  expect(report.unsettled.map(({ name }) => name)).toEqual([coming])
  expect((await check({ removeOrphans: true })).removedOrphans).toBe(1)
  expect(await server.store.size(left)).toBeNull()
  expect(await server.store.size(coming)).not.toBeNull()
  expect(await check()).toMatchObject({ problems: [], orphans: [] })
})

test('shards are counted as shards of one tenant, and what has gone is not counted', async () => {
  await server.stop()
  server = await ScratchServer.start({}, undefined, { count: 3, stripeBlocks: 1 })
  const facts = { startLsn: START_LSN, systemId: '1', pgVersion: 170011 }
  for (const tenant of server.shards) {
    await tenant.createTimeline(id, facts, async (timeline) => fill(timeline, START_LSN))
  }
  const whole = { problems: [], orphans: [], unsettled: [] }
  expect(await check()).toMatchObject({ ...whole, tenants: 1, shards: 3, timelines: 1 })
  for (const tenant of server.shards) await tenant.lives.delete(id)
  for (let round = 0; round < 3; round++) {
    await server.deleteDoomed()
    for (const tenant of server.shards) await tenant.lives.sweepDeleted()
  }
  expect(await check()).toMatchObject({ ...whole, tenants: 0, shards: 0, timelines: 0 })
})
