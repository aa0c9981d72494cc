import { randomBytes } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { OpenLayer } from '../layers/open-layer.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import { writeDeltaFile } from '../timeline/delta-writer.ts'
import { FlushThread } from './flush-thread.ts'

const DYING = new URL('./testing/dying-flush-worker.ts', import.meta.url)
const OWNER = { tenantId: '0'.repeat(32), timelineId: '1'.repeat(32), pgVersion: 170011 }

/** Its values cannot be compressed: what that makes of them depends on what the thread did before. */
function filledLayer(slots: SlotTable): OpenLayer {
  const layer = new OpenLayer(8)
  for (let index = 1; index <= 20_000; index++) {
    const slot = slots.intern(KeyClass.RelBlock, 1663, 5, 20_000 - (index % 1500), 0)
    const value = randomBytes(index % 300)
    layer.put(slot, index % 7, index * 8, ValueKind.Record, value, 0, value.length)
    if (index % 1000 === 0) {
      layer.putOwnImage(slot, index % 7, index * 8, randomBytes(PAGE_SIZE))
    }
  }
  return layer
}

describe('the flush thread', () => {
  let folder: string
  let files: FlushThread

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'flush-thread-'))
    files = new FlushThread()
  })

  afterEach(async () => {
    await files.close()
    await rm(folder, { recursive: true })
  })

  test('writes the bytes that this thread would write', async () => {
    const slots = new SlotTable()
    const layer = filledLayer(slots)
    const file = { endLsn: 160_001, owner: OWNER, generation: 1, slots }
    const [here, there] = [join(folder, 'here'), join(folder, 'there')]
    const entry = await writeDeltaFile(layer, { ...file, path: here })
    expect(await files.write(layer, { ...file, path: there })).toEqual(entry)
    expect((await readFile(there)).equals(await readFile(here))).toBe(true)
    expect(await files.write(new OpenLayer(8), { ...file, path: join(folder, 'none') })).toBe(null)
  })

  test('tells why a file cannot be written', async () => {
    const slots = new SlotTable()
    const layer = filledLayer(slots)
    const path = join(folder, 'missing', 'file')
    const file = { path, endLsn: 160_001, owner: OWNER, generation: 1, slots }
    await expect(files.write(layer, file)).rejects.toMatchObject({ code: 'ENOENT' })
  })
})

test('a flush whose thread dies fails, and the next one has a new thread', async () => {
  const dying = new FlushThread(DYING)
  const whole = new FlushThread()
  await using server = await ScratchServer.start()
  const facts = { startLsn: 0x1000000, systemId: '1', pgVersion: 170011 }
  let script = dying
  server.deltaFiles = { write: (memory, file) => script.write(memory, file) }
  await server.restart()
  script = whole
  const timeline = await server.tenant.createTimeline(newTimelineId(), facts, async () => {})
  const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
  const page = Buffer.alloc(PAGE_SIZE, 7)
  timeline.put(slot, 0, 0x1000100, ValueKind.Image, page, 0, PAGE_SIZE)
  timeline.publish(0x1000100)
  script = dying
  for (let time = 0; time < 2; time++) {
    await expect(timeline.flush()).rejects.toThrow('the flush thread is gone: the thread dies of')
    expect(await timeline.readPage(slot, 0, 0x1000100)).toEqual(page)
  }
  script = whole
  await timeline.flush()
  expect(timeline.diskConsistentLsn).toBe(0x1000100)
  expect(await timeline.readPage(slot, 0, 0x1000100)).toEqual(page)
  await dying.close()
  await whole.close()
})
