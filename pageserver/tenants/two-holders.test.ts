/**
 * One tenant at two page servers over the same object storage: the old holder, stale or not knowing
 * that it is, and the new one. Whatever the old one does, the new one loses nothing.
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { newTenantId, newTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { NO_DELETIONS } from '../remote/deletions.ts'
import { localFolder } from '../remote/paths.ts'
import { heatmapOf } from '../secondary/heatmap.ts'
import { Secondary } from '../secondary/secondary.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { TenantManager } from './tenant-manager.ts'
import { toyRedo } from './testing/toy-redo.ts'

const START_LSN = 0x2000000
const STEP = 0x1000
const BLOCKS = 32
const QUIET = { info() {}, warn() {}, error() {} } as unknown as Logger

let folder: string
let tenantId: TenantId
let id: TimelineId
/** The highest generation that the control plane has given out. */
let newest: number
const managers: TenantManager[] = []

interface Holder {
  folder: string
  manager: TenantManager
  /** Objects that it had deleted, were it up to it alone. */
  doomed: string[]
  /** Objects that it has fetched as a whole. */
  fetched: string[]
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pageserver-holders-'))
  tenantId = newTenantId()
  id = newTimelineId()
  newest = 1
})
afterEach(async () => {
  for (const manager of managers.splice(0)) await manager.abandon()
  await rm(folder, { recursive: true, force: true })
})

class CountingStore extends LocalObjectStore {
  readonly fetched: string[] = []

  override getFile(name: string, path: string): Promise<void> {
    this.fetched.push(name)
    return super.getFile(name, path)
  }
}

const store = () => new CountingStore(join(folder, 'objects'))

function holder(name: string): Holder {
  const doomed: string[] = []
  const own = store()
  const manager = new TenantManager({
    dataDir: join(folder, name),
    objectStore: own,
    ...toyRedo(),
    deletions: { ...NO_DELETIONS, push: (_, __, names) => doomed.push(...names) },
    generations: { validate: async (_, generation) => generation === newest },
    log: QUIET,
    // Layers are counted: none are made or merged meanwhile.
    limits: { imageDepth: 1000, imageAfterDeltas: 1000, l0CompactCount: 1000 },
  })
  managers.push(manager)
  return { folder: join(folder, name), manager, doomed, fetched: own.fetched }
}

function pageOf(round: number, blk: number): Buffer {
  const page = Buffer.alloc(PAGE_SIZE)
  for (let at = 0; at < PAGE_SIZE; at += 4) {
    page.writeUInt32LE(Math.imul(at + round * 7919 + blk * 104729, 2654435761) >>> 0, at)
  }
  return page
}

const lsnOf = (round: number) => START_LSN + round * STEP
const slotOf = (timeline: Timeline) => timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)

/** What WAL up to the round does to whoever takes it in. */
function ingest(timeline: Timeline, toRound: number): void {
  for (let round = 1; round <= toRound; round++) {
    if (lsnOf(round) <= timeline.lastRecordLsn) continue
    const size = Buffer.alloc(4)
    size.writeUInt32LE(BLOCKS)
    const sizes = timeline.slot(KeyClass.RelSize, 1, 2, 3, 0)
    timeline.put(sizes, 0, lsnOf(round), ValueKind.Image, size, 0, size.length)
    for (let blk = 0; blk < BLOCKS; blk++) {
      const page = pageOf(round, blk)
      timeline.put(slotOf(timeline), blk, lsnOf(round), ValueKind.Image, page, 0, PAGE_SIZE)
    }
    timeline.publish(lsnOf(round))
  }
}

async function expectReads(timeline: Timeline, toRound: number): Promise<void> {
  for (let round = 1; round <= toRound; round++) {
    const pages = await timeline.readPages(slotOf(timeline), 0, BLOCKS, lsnOf(round))
    for (let blk = 0; blk < BLOCKS; blk++) {
      const page = pages.subarray(blk * PAGE_SIZE, (blk + 1) * PAGE_SIZE)
      expect(page.equals(pageOf(round, blk)), `round ${round}, block ${blk}`).toBe(true)
    }
  }
}

async function firstHolder(rounds: number): Promise<{ old: Holder; timeline: Timeline }> {
  const old = holder('old')
  await old.manager.attach(tenantId, 1)
  const options = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  const timeline = await old.manager.createTimeline(tenantId, id, options, async () => {})
  for (let round = 1; round <= rounds; round++) {
    ingest(timeline, round)
    await timeline.flush()
  }
  return { old, timeline }
}

async function objects(): Promise<string[]> {
  return (await store().list(`tenants/${tenantId}`)).objects.map(({ name }) => name)
}

test('the new holder finds a warm copy, and the stale one reads on while nothing is taken from it', async () => {
  const { old, timeline } = await firstHolder(4)
  const next = holder('next')
  const secondary = new Secondary({
    tenantId,
    folder: next.folder,
    store: store(),
    heatmap: async () => heatmapOf([timeline]),
    log: QUIET,
    pauseMs: 10,
  })
  secondary.start()
  await expect.poll(() => secondary.info.missingLayers).toBe(0)
  await secondary.stop()
  expect(secondary.info).toMatchObject({ layers: 4, lastError: null })
  const copies = await readdir(localFolder(next.folder, tenantId, id))
  expect(copies.sort()).toEqual(timeline.layers.newestFirst.map(({ name }) => name).sort())

  ingest(timeline, 5)
  await old.manager.tenant(tenantId).become('stale')
  const before = await objects()
  ingest(timeline, 6)
  await expect(timeline.flush()).rejects.toThrow('is being moved to another page server')
  await expect(timeline.createImageLayers()).rejects.toThrow('is being moved')
  await expect(
    old.manager.branchTimeline(tenantId, newTimelineId(), {
      ancestorTimelineId: id,
      ancestorLsn: lsnOf(2),
    }),
  ).rejects.toThrow('is being moved')
  expect(await objects()).toEqual(before)
  expect(timeline.remoteConsistentLsn).toBe(lsnOf(4))

  newest = 2
  await next.manager.attach(tenantId, 2)
  await next.manager.tenant(tenantId).become('multi')
  const taken = next.manager.tenant(tenantId).timeline(id)
  expect(taken.lastRecordLsn).toBe(lsnOf(4))
  await expectReads(taken, 4)
  expect(next.fetched, 'layers were there').toEqual([])
  ingest(taken, 8)
  await taken.flush()
  await taken.createImageLayers()
  expect(next.doomed).toEqual([])

  // The old one has lost its disk cache and even been restarted: what it reads by is still there.
  await old.manager.abandon()
  await rm(old.folder, { recursive: true, force: true })
  const again = holder('old')
  await again.manager.attach(tenantId, 1)
  await again.manager.tenant(tenantId).become('stale')
  const stale = again.manager.tenant(tenantId).timeline(id)
  ingest(stale, 7)
  await expectReads(stale, 7)

  await again.manager.detach(tenantId)
  await next.manager.tenant(tenantId).become('attached')
  const named = new Set(taken.layers.newestFirst.map(({ objectName }) => objectName))
  expect(next.doomed.length).toBeGreaterThan(0)
  for (const name of next.doomed) {
    expect(named.has(name), name).toBe(false)
    await store().delete(name)
  }
  await expectReads(taken, 8)
  expect(taken.remoteConsistentLsn).toBe(lsnOf(8))
})

test('a holder that does not know that it is stale lets no WAL go, and the new one sees nothing of it', async () => {
  const { old, timeline } = await firstHolder(2)
  newest = 2
  const next = holder('next')
  await next.manager.attach(tenantId, 2)
  const taken = next.manager.tenant(tenantId).timeline(id)

  ingest(timeline, 5)
  await timeline.flush().catch(() => undefined)
  await timeline.createImageLayers().catch(() => undefined)
  expect(timeline.remoteConsistentLsn).toBe(lsnOf(2))
  expect(taken.lastRecordLsn).toBe(lsnOf(2))
  ingest(taken, 3)
  await taken.flush()
  expect(taken.remoteConsistentLsn).toBe(lsnOf(3))

  // Attached anew, the tenant is as the newest generation left it.
  newest = 3
  await next.manager.abandon()
  const third = holder('third')
  await third.manager.attach(tenantId, 3)
  const last = third.manager.tenant(tenantId).timeline(id)
  expect(last.lastRecordLsn).toBe(lsnOf(3))
  await expectReads(last, 3)
  const generations = last.layers.newestFirst.map(({ id: { generation } }) => generation)
  expect(generations.toSorted((a, b) => a - b)).toEqual([1, 1, 2])
  await old.manager.detach(tenantId)
  expect(old.manager.find(tenantId)).toBeNull()
})
