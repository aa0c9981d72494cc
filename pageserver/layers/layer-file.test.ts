/** Layer files alone: what is written is read, in every shape of key, chain and chunk. */
import { randomBytes } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ValueKind } from '../keyspace/key-class.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { readVersions, type ReadSource, type Version } from '../read/read-plan.ts'
import { Layer } from './layer.ts'
import { LayerMap } from './layer-map.ts'
import { type LayerId, LayerKind, layerName, parseLayerName } from './layer-name.ts'
import { LayerFolder } from './testing/layer-folder.ts'

const folder = new LayerFolder('layer-file')
const START = 1000
const MB = 1024 * 1024
let files = 0

interface Entry {
  rel: number
  blk: number
  lsn: number
  kind: ValueKind
  value: Buffer
}

async function write(
  kind: LayerKind,
  entries: readonly Entry[],
  slots: SlotTable,
  lsns: Partial<LayerId> = {},
) {
  const id: LayerId = {
    kind,
    firstKey: MIN_KEY,
    lastKey: MAX_KEY,
    startLsn: START,
    endLsn: kind === LayerKind.Delta ? 1_000_000 : START + 1,
    floorLsn: kind === LayerKind.Delta ? START : 500,
    generation: ++files,
    ...lsns,
  }
  const writer = await folder.writer(id, slots)
  for (const { rel, blk, lsn, kind: valueKind, value } of entries) {
    const full = writer.add(
      slots.intern(0, 1, 2, rel, 0),
      blk,
      lsn,
      valueKind,
      Buffer.concat([Buffer.from('x'), value, Buffer.from('y')]),
      1,
      value.length,
    )
    if (full) await writer.pump()
  }
  return await writer.finish()
}

/** Reads through a slot table of its own, as another process would. */
function openSource(entries: Awaited<ReturnType<typeof write>>[]): ReadSource {
  const slots = new SlotTable()
  slots.intern(9, 9, 9, 9, 9)
  const context = folder.context(slots, 200_000)
  const layers = new LayerMap(
    context,
    entries.map((entry) => new Layer(entry, context)),
  )
  return { slots, memory: [], layers, parent: null }
}

const entry = fc.record({
  rel: fc.nat(3),
  blk: fc.oneof(fc.nat(5), fc.constantFrom(0xffffffff, 0xfffffffe, 100_000)),
  lsn: fc.integer({ min: START, max: START + 60 }),
  kind: fc.constantFrom(...Object.values(ValueKind)),
  size: fc.oneof(fc.nat(50), fc.nat(9000), fc.constantFrom(8192, 70_000, 200_000)),
  fill: fc.nat(255),
})

test('a delta gives each key its versions below any ceiling', { timeout: 60_000 }, async () => {
  const shape = fc.array(entry, { minLength: 1, maxLength: 200 })
  // Up to more WAL than the index tells apart byte by byte.
  const step = fc.constantFrom(1, 8, 2 ** 27 + 8, 2 ** 33 + 24)
  const ceilings = fc.integer({ min: 0, max: 62 })
  await fc.assert(
    fc.asyncProperty(shape, ceilings, step, async (raw, below, width) => {
      const ceiling = START + below * width
      const sorted: Entry[] = raw
        .map(({ size, fill, lsn, ...rest }) => ({
          ...rest,
          lsn: START + (lsn - START) * width,
          value: Buffer.alloc(size, fill),
        }))
        .sort((a, b) => a.rel - b.rel || a.blk - b.blk || a.lsn - b.lsn)
      const endLsn = START + 62 * width
      const layer = await write(LayerKind.Delta, sorted, new SlotTable(), { endLsn })
      const source = openSource([layer])
      const keys = [...new Set(sorted.map(({ rel, blk }) => `${rel} ${blk}`)), '0 77'].map(
        (text) => {
          const [rel, blk] = text.split(' ').map(Number) as [number, number]
          return { rel, blk, slot: source.slots.intern(0, 1, 2, rel, 0) }
        },
      )
      const found = await readVersions(source, keys, ceiling)
      for (const [index, { rel, blk }] of keys.entries()) {
        const mine = sorted.filter((one) => one.rel === rel && one.blk === blk)
        expect((found[index] as Version[]).map(plain)).toEqual(expected(mine, ceiling).map(plain))
      }
    }),
    { numRuns: 60 },
  )
})

function expected(entries: Entry[], ceiling: number): Entry[] {
  const below = entries.filter(({ lsn }) => lsn < ceiling).reverse()
  const base = below.findIndex(
    ({ kind }) => kind !== ValueKind.Record && kind !== ValueKind.NativeOp,
  )
  return base < 0 ? below : below.slice(0, base + 1)
}

function plain({ kind, lsn, value }: Version): [number, number, string] {
  return [kind, lsn, `${value.length} ${value.subarray(0, 8).toString('hex')}`]
}

test('a key absent from an image is looked for below its floor', async () => {
  const slots = new SlotTable()
  const image = await write(
    LayerKind.Image,
    [{ rel: 1, blk: 5, lsn: START, kind: ValueKind.Image, value: Buffer.from('image') }],
    slots,
  )
  const record = (rel: number, lsn: number): Entry => {
    return { rel, blk: 5, lsn, kind: ValueKind.Image, value: Buffer.from(`old ${lsn}`) }
  }
  const below = await write(LayerKind.Delta, [record(1, START), record(2, START)], slots)
  const old = openSource([image, below])
  const read = async (rel: number, ceiling: number) => {
    const slot = old.slots.intern(0, 1, 2, rel, 0)
    const [versions] = await readVersions(old, [{ slot, blk: 5 }], ceiling)
    return versions?.map(({ value }) => value.toString())
  }
  // The image lies inside the delta's span and stands for all at or below its LSN.
  expect(await read(1, START + 1)).toEqual(['image'])
  expect(await read(2, START + 1)).toEqual([])
  expect(await read(1, START + 2)).toEqual(['image'])
  const alone = openSource([image])
  const slot = alone.slots.intern(0, 1, 2, 1, 0)
  const [versions] = await readVersions(alone, [{ slot, blk: 5 }], START + 1)
  expect(versions?.[0]?.value.toString()).toBe('image')
  expect(await readVersions(alone, [{ slot, blk: 5 }], START)).toEqual([[]])
  expect(await readVersions(alone, [{ slot, blk: 6 }], START + 1)).toEqual([[]])
})

test('an image inside the span of one that lacks the key still counts, a delta there does not', async () => {
  const slots = new SlotTable()
  const page = (rel: number, lsn: number, text: string): Entry => {
    return { rel, blk: 5, lsn, kind: ValueKind.Image, value: Buffer.from(text) }
  }
  const upper = { startLsn: 2000, endLsn: 2001, floorLsn: 1001 }
  const inside = { startLsn: 1500, endLsn: 1501, floorLsn: 0 }
  // It tells of nothing that the upper one does not: what only this one has is gone.
  const stale = { startLsn: 1600, endLsn: 1601, floorLsn: 1001 }
  const source = openSource([
    await write(LayerKind.Image, [page(1, 2000, 'upper')], slots, upper),
    await write(LayerKind.Image, [page(3, 1600, 'gone')], slots, stale),
    await write(LayerKind.Image, [page(1, 1500, 'old'), page(2, 1500, 'inside')], slots, inside),
    await write(LayerKind.Delta, [page(2, 1200, 'wrong')], slots, { startLsn: 1100, endLsn: 1300 }),
  ])
  const read = async (rel: number, ceiling: number) => {
    const slot = source.slots.intern(0, 1, 2, rel, 0)
    const [versions] = await readVersions(source, [{ slot, blk: 5 }], ceiling)
    return versions?.map(({ value }) => value.toString())
  }
  expect(await read(1, 2001)).toEqual(['upper'])
  expect(await read(2, 2001)).toEqual(['inside'])
  expect(await read(3, 2001)).toEqual([])
  expect(await read(1, 2000)).toEqual(['old'])
  expect(await read(3, 2000)).toEqual(['gone'])
})

test('names say what the layer is', () => {
  const id: LayerId = {
    kind: LayerKind.Image,
    firstKey: { cls: 0, spc: 1663, db: 5, rel: 16384, fork: 3, blk: 7 },
    lastKey: MAX_KEY,
    startLsn: 2 ** 45 + 8,
    endLsn: 2 ** 45 + 9,
    floorLsn: 24,
    generation: 0x1f,
  }
  const name = layerName(id)
  expect(name).toBe(
    'image_000000067f00000005000040000300000007-ffffffffffffffffffffffffffffffffffff__0000200000000008-0000000000000018-0000001f',
  )
  expect(parseLayerName(name)).toEqual(id)
  const delta = { ...id, kind: LayerKind.Delta, endLsn: 2 ** 46, floorLsn: id.startLsn }
  expect(parseLayerName(layerName(delta))).toEqual(delta)
  const again = { ...id, serial: 0xab }
  expect(layerName(again)).toBe(`${name}-000000ab`)
  expect(parseLayerName(layerName(again))).toEqual(again)
  for (const bad of ['', 'delta_', `${name}.tmp~1`, name.replace('image', 'other')]) {
    expect(() => parseLayerName(bad)).toThrow('is not a layer name')
  }
})

test('a large file is synced on its way, so that no sync finds much to write', async () => {
  const slots = new SlotTable()
  const id: LayerId = {
    kind: LayerKind.Image,
    firstKey: MIN_KEY,
    lastKey: MAX_KEY,
    startLsn: START,
    endLsn: START + 1,
    floorLsn: 500,
    generation: ++files,
  }
  const writer = await folder.writer(id, slots)
  await using any = await open(fileURLToPath(import.meta.url))
  const handle = Object.getPrototypeOf(any) as {
    write: (this: FileHandle, ...args: unknown[]) => Promise<{ bytesWritten: number }>
    datasync: (this: FileHandle) => Promise<void>
  }
  const { write, datasync } = handle as unknown as {
    write: (...args: unknown[]) => Promise<{ bytesWritten: number }>
    datasync: () => Promise<void>
  }
  let [unsynced, most, syncs, total] = [0, 0, 0, 0]
  const seen = new Set<FileHandle>()
  handle.write = async function (this: FileHandle, ...args: unknown[]) {
    if (seen.size === 0) seen.add(this)
    const result = await write.apply(this, args)
    if (!seen.has(this)) return result
    unsynced += result.bytesWritten
    total += result.bytesWritten
    most = Math.max(most, unsynced)
    return result
  }
  handle.datasync = function (this: FileHandle) {
    if (seen.has(this)) {
      syncs += 1
      unsynced = 0
    }
    return datasync.apply(this)
  }
  try {
    const slot = slots.intern(0, 1, 2, 3, 0)
    for (let blk = 0; total < 40 * MB; blk++) {
      if (writer.add(slot, blk, START, ValueKind.Image, randomBytes(8192), 0, 8192)) {
        await writer.pump()
      }
    }
    await writer.finish()
  } finally {
    Object.assign(handle, { write, datasync })
  }
  expect(syncs).toBeGreaterThanOrEqual(5)
  // What is written at once comes on top.
  expect(most).toBeLessThanOrEqual(9.5 * MB)
})
