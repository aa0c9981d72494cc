/** A timeline that is being imported is there when it is whole, and not before, whatever happens. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { DraftPlace } from '../tenants/tenant.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { ClusterPiece } from './cluster-files.ts'
import { writeClusterImages } from './cluster-images.ts'

const START: Lsn = 0x1000
const END: Lsn = 0x4000
const FACTS = { startLsn: START, systemId: '7', pgVersion: 170011 }
const BLOCKS = 300

let server: ScratchServer
const timelineId = newTimelineId()

beforeEach(async () => {
  server = await ScratchServer.start({ imageLayerBytes: 256 * 1024, rollSizeBytes: 64 * 1024 })
})
afterEach(() => server.stop())

function pageOf(block: number, version: number): Buffer {
  const page = Buffer.alloc(PAGE_SIZE)
  for (let at = 0; at < PAGE_SIZE; at += 4)
    page.writeUInt32LE((block * 7919 + at * version) >>> 0, at)
  return page
}

async function* pieces(): AsyncGenerator<ClusterPiece> {
  for (let first = 0; first < BLOCKS; first += 50) {
    const bytes = Buffer.concat(Array.from({ length: 50 }, (_, index) => pageOf(first + index, 1)))
    // One page is empty.
    if (first === 100) bytes.fill(0, 0, PAGE_SIZE)
    yield { cls: KeyClass.RelBlock, spc: 1663, db: 5, rel: 9, fork: 0, firstBlk: first, bytes }
  }
  const size = Buffer.alloc(4)
  size.writeUInt32LE(BLOCKS)
  yield { cls: KeyClass.RelSize, spc: 1663, db: 5, rel: 9, fork: 0, firstBlk: 0, bytes: size }
}

/** The files at START, then a newer image of every third page, one record each. */
async function fill(timeline: Timeline, place: DraftPlace): Promise<Lsn> {
  timeline.beginDraft(await writeClusterImages(pieces(), START, place, () => {}), START)
  const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 9, 0)
  for (let block = 0; block < BLOCKS; block += 3) {
    const lsn = START + 8 + block * 8
    timeline.put(slot, block, lsn, ValueKind.Image, pageOf(block, 2), 0, PAGE_SIZE)
    timeline.publish(lsn)
    await timeline.waitForRoom()
  }
  timeline.publish(END)
  return END - 8
}

async function expectWhole(timeline: Timeline): Promise<void> {
  const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 9, 0)
  for (const block of [0, 1, 99, 100, 101, 299]) {
    const expected = block % 3 === 0 ? pageOf(block, 2) : pageOf(block, block === 100 ? 0 : 1)
    const page = await timeline.readPage(slot, block, END)
    expect(page.equals(block === 100 ? Buffer.alloc(PAGE_SIZE) : expected)).toBe(true)
  }
  expect(await timeline.relSize(1663, 5, 9, 0, END)).toBe(BLOCKS)
  await expect(timeline.readPage(slot, 0, END - 16)).rejects.toThrow('has no history')
  expect([timeline.startLsn, timeline.walStartLsn]).toEqual([END - 8, END])
}

const objectsOf = async () => (await server.store.list('tenants')).objects.map(({ name }) => name)

describe('an import', () => {
  test('is readable from its end on, and after a crash', async () => {
    const timeline = await server.tenant.importTimeline(timelineId, FACTS, fill)
    expect(timeline.layers.newestFirst.length).toBeGreaterThan(4)
    await expectWhole(timeline)
    expect(timeline.remoteConsistentLsn).toBe(END)
    await server.restart({ wipeLocal: true })
    await expectWhole(server.tenant.timeline(timelineId))
  })

  test('that fails leaves no object and no file', async () => {
    const failing = async (timeline: Timeline, place: DraftPlace) => {
      await fill(timeline, place)
      timeline.relieve()
      await timeline.settle()
      expect((await objectsOf()).length).toBeGreaterThan(3)
      expect(timeline.remoteConsistentLsn).toBe(0)
      throw new Error('no more WAL')
    }
    const doomed = server.tenant.importTimeline(timelineId, FACTS, failing)
    await expect(doomed).rejects.toThrow('no more WAL')
    expect(await objectsOf()).toEqual([])
    const local = join(server.localFolder, 'tenants', server.tenantId, 'timelines')
    expect(await readdir(local)).toEqual([])
    await expectWhole(await server.tenant.importTimeline(timelineId, FACTS, fill))
  })

  test('that a crash cuts short is not there afterwards, and can be made again', async () => {
    const cut = server.tenant.importTimeline(timelineId, FACTS, async (timeline, place) => {
      await fill(timeline, place)
      timeline.relieve()
      await timeline.settle()
      await server.restart()
      throw new Error('gone')
    })
    await expect(cut).rejects.toThrow('gone')
    expect(() => server.tenant.timeline(timelineId)).toThrow('has no timeline')
    await expectWhole(await server.tenant.importTimeline(timelineId, FACTS, fill))
    await server.restart()
    await expectWhole(server.tenant.timeline(timelineId))
  })
})
