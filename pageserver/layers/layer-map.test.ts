import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { MAX_KEY, MIN_KEY, type Key } from '../keyspace/key.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { ChunkCache } from './chunk-cache.ts'
import { Layer, type LayerContext } from './layer.ts'
import { LayerMap } from './layer-map.ts'
import { type LayerId, LayerKind } from './layer-name.ts'

const slots = new SlotTable()
const context: LayerContext = {
  folder: '/nowhere',
  objectFolder: () => 'none',
  store: new LocalObjectStore('/nowhere'),
  slots,
  cache: new ChunkCache(0),
}

function keyOf(number: number): Key {
  return { cls: 0, spc: 1663, db: 5, rel: 16384 + (number >> 8), fork: 0, blk: number & 255 }
}

function layerOf(first: number, last: number, lsn: number, kind: LayerKind): Layer {
  const id: LayerId = {
    kind,
    firstKey: first < 0 ? MIN_KEY : keyOf(first),
    lastKey: first < 0 ? MAX_KEY : keyOf(last),
    startLsn: lsn,
    endLsn: kind === LayerKind.Image ? lsn + 1 : lsn + 10,
    floorLsn: lsn,
    generation: 1,
  }
  return new Layer({ id, sizeBytes: 1, crc: 0, origin: null, ceilingLsn: null }, context)
}

/** What the map finds for a key, in the order in which a read goes. */
function found(map: LayerMap, number: number, hint: number): Layer[] {
  const key = keyOf(number)
  const slot = slots.intern(key.cls, key.spc, key.db, key.rel, key.fork)
  const { images, deltas } = map.column(map.columnOf(slots, slot, key.blk, hint))
  return [...images, ...deltas, ...map.l0].filter(
    ({ id, isL0 }) =>
      isL0 || (compare(id.firstKey, number) <= 0 && compare(id.lastKey, number) >= 0),
  )
}

function compare(key: Key, number: number): number {
  return ((key.rel - 16384) << 8) + key.blk - number
}

const KEYS = 4096
const one = fc.record({
  first: fc.integer({ min: -1, max: KEYS - 1 }),
  width: fc.oneof(fc.nat(8), fc.nat(KEYS)),
  lsn: fc.nat(400),
  isImage: fc.boolean(),
  goes: fc.boolean(),
})

test('finds for each key just the layers that cover it', { timeout: 60_000 }, () => {
  const steps = fc.array(fc.array(one, { maxLength: 60 }), { minLength: 1, maxLength: 12 })
  fc.assert(
    fc.property(steps, fc.array(fc.nat(KEYS - 1), { minLength: 1, maxLength: 20 }), (all, keys) => {
      const map = new LayerMap(context)
      let layers: Layer[] = []
      for (const step of all) {
        const added = step.map(({ first, width, lsn, isImage }) =>
          layerOf(
            first,
            Math.min(first + width, KEYS - 1),
            lsn * 10,
            isImage && first >= 0 ? 1 : 0,
          ),
        )
        const gone = layers.filter((_, index) => step[index % 7]?.goes)
        const { version } = map
        map.change(added, gone)
        expect(map.version).not.toBe(version)
        layers = [...layers.filter((layer) => !gone.includes(layer)), ...added]
        expect(map.count).toBe(layers.length)
        expect(new Set(map.newestFirst)).toEqual(new Set(layers))
        for (const layer of layers) expect(map.find(layer)?.key).toBe(layer.key)
        const names = new Set(layers.map((layer) => layer.key))
        for (const layer of gone) expect(map.has(layer)).toBe(names.has(layer.key))
        expect(map.shapes.map((shape) => shape.key)).toEqual(map.newestFirst.map((one) => one.key))
        expect(map.bytes).toEqual({ own: layers.length, adopted: 0 })
        let hint = 0
        for (const key of keys) {
          hint = (hint + key) % map.columnCount
          const expected = layers.filter(
            ({ id, isL0 }) =>
              isL0 || (compare(id.firstKey, key) <= 0 && compare(id.lastKey, key) >= 0),
          )
          const mine = found(map, key, hint)
          expect(mine.length).toBe(expected.length)
          expect(new Set(mine)).toEqual(new Set(expected))
          const [first, last] = [key, Math.min(key + 300, KEYS - 1)]
          const meeting = layers.filter(
            ({ id, isL0 }) =>
              isL0 || (compare(id.firstKey, last) <= 0 && compare(id.lastKey, first) >= 0),
          )
          expect(new Set(map.overlapping(keyOf(first), keyOf(last)))).toEqual(new Set(meeting))
        }
        const ends = map.newestFirst.map(({ endLsn }) => endLsn)
        expect(ends).toEqual(ends.toSorted((a, b) => b - a))
      }
    }),
    { numRuns: 40 },
  )
})

test('a hundred thousand layers are cut into columns that stay small', () => {
  const layers: Layer[] = []
  for (let set = 0; set < 100; set++) {
    for (let part = 0; part < 1000; part++) {
      layers.push(layerOf(part * 1000 + (set % 7), part * 1000 + 990, set * 10, LayerKind.Delta))
    }
  }
  const map = new LayerMap(context, layers)
  let listings = 0
  let most = 0
  for (let column = 0; column < map.columnCount; column++) {
    const { deltas } = map.column(column)
    listings += deltas.length
    most = Math.max(most, deltas.length)
  }
  expect(map.columnCount).toBeGreaterThan(500)
  expect(most).toBeLessThanOrEqual(300)
  expect(listings).toBeLessThan(16 * layers.length)
  const before = Array.from({ length: map.columnCount }, (_, column) => map.column(column))
  map.change([layerOf(5000, 5100, 2000, LayerKind.Delta)], [layers[0] as Layer])
  expect(map.count).toBe(layers.length)
  const shared = before.filter((column, number) => map.column(number) === column).length
  expect(shared).toBeGreaterThanOrEqual(map.columnCount - 20)
})
