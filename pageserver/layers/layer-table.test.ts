import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { setImmediate } from 'node:timers/promises'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parseTimelineId } from '#libs/ids.ts'
import { parseTenantShardId } from '#libs/sharding.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { ChunkCache } from './chunk-cache.ts'
import { Layer, type LayerContext, type LayerEntry, layerFileName } from './layer.ts'
import { LayerMap } from './layer-map.ts'
import { LayerKind, layerName } from './layer-name.ts'
import { LayerFlag, LayerTable } from './layer-table.ts'

const ORIGINS = ['0'.repeat(31), 'f'.repeat(31)].map((start) => parseTimelineId(`${start}7`))
const SHARD = parseTenantShardId(`${'9'.repeat(32)}-0102`)
const WHOLE = parseTenantShardId('9'.repeat(32))
const u32 = fc.oneof(fc.nat(5), fc.constantFrom(0xffffffff, 0x80000000, 16384))
const key = fc.oneof(
  fc.constantFrom(MIN_KEY, MAX_KEY),
  fc.record({ cls: fc.nat(255), spc: u32, db: u32, rel: u32, fork: fc.nat(255), blk: u32 }),
)
const lsn = fc.oneof(fc.nat(1000), fc.integer({ min: 0, max: 2 ** 52 }))
const entry: fc.Arbitrary<LayerEntry> = fc
  .record({
    isImage: fc.boolean(),
    firstKey: key,
    lastKey: key,
    startLsn: lsn,
    second: lsn,
    generation: u32,
    serial: fc.option(u32, { nil: undefined }),
    sizeBytes: fc.oneof(fc.nat(1000), fc.integer({ min: 0, max: 2 ** 40 - 1 })),
    crc: u32,
    origin: fc.constantFrom(null, null, ...ORIGINS),
    ceilingLsn: lsn,
    splitFrom: fc.constantFrom(undefined, undefined, SHARD),
  })
  .map(({ isImage, second, serial, origin, ceilingLsn, splitFrom, sizeBytes, crc, ...id }) => ({
    ...(splitFrom === undefined ? {} : { splitFrom }),
    id: {
      ...id,
      kind: isImage ? LayerKind.Image : LayerKind.Delta,
      endLsn: isImage ? id.startLsn + 1 : second,
      floorLsn: isImage ? second : id.startLsn,
      ...(serial === undefined ? {} : { serial }),
    },
    sizeBytes,
    crc,
    origin,
    ceilingLsn: origin === null ? null : ceilingLsn,
  }))

test('gives back what was put in, whatever came and went', () => {
  const step = fc.record({
    entry,
    goes: fc.option(fc.nat(20), { nil: null }),
    isLocal: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), fc.nat(10), (steps, capacity) => {
      const table = new LayerTable(new SlotTable(), capacity)
      const known = new Map<number, { entry: LayerEntry; isLocal: boolean }>()
      for (const one of steps) {
        const row = table.add(one.entry)
        expect(known.has(row)).toBe(false)
        expect(table.has(row, LayerFlag.Local) || table.accessSeconds(row) > 0).toBe(false)
        table.set(row, LayerFlag.Local, one.isLocal)
        table.setAccessSeconds(row, 7)
        known.set(row, { entry: one.entry, isLocal: one.isLocal })
        const gone = [...known.keys()][one.goes ?? -1]
        if (gone === undefined) continue
        table.remove(gone)
        known.delete(gone)
      }
      expect([...table.rows()].sort((a, b) => a - b)).toEqual(
        [...known.keys()].sort((a, b) => a - b),
      )
      let localBytes = 0
      for (const [row, { entry: one, isLocal }] of known) {
        expect(table.entry(row)).toEqual(one)
        expect(table.is(row, one)).toBe(true)
        for (const other of [
          { ...one, id: { ...one.id, startLsn: one.id.startLsn + 1 } },
          { ...one, origin: parseTimelineId('7'.repeat(32)) },
          { ...one, splitFrom: parseTenantShardId('8'.repeat(32)) },
        ]) {
          expect(table.is(row, other)).toBe(false)
        }
        expect(table.endLsn(row)).toBe(Math.min(one.id.endLsn, one.ceilingLsn ?? one.id.endLsn))
        expect(table.has(row, LayerFlag.Local)).toBe(isLocal)
        if (isLocal) localBytes += one.sizeBytes
      }
      expect(table.residentBytes).toBe(localBytes)
      expect(new Set(table.takeAccessed())).toEqual(new Set(known.keys()))
      expect(table.takeAccessed()).toEqual([])
    }),
    { numRuns: 300 },
  )
})

function context(): LayerContext {
  return {
    folder: '/nowhere',
    objectFolder: () => 'none',
    store: new LocalObjectStore('/nowhere'),
    slots: new SlotTable(),
    cache: new ChunkCache(0),
  }
}

function entryOf(number: number): LayerEntry {
  const blk = { ...MIN_KEY, rel: 5, blk: number }
  return {
    id: {
      kind: LayerKind.Delta,
      firstKey: blk,
      lastKey: { ...blk, blk: number + 3 },
      startLsn: 100,
      endLsn: 200,
      floorLsn: 100,
      generation: 1,
      serial: number,
    },
    sizeBytes: 1000 + number,
    crc: number,
    origin: number % 3 === 0 ? (ORIGINS[0] as LayerEntry['origin']) : null,
    ceilingLsn: number % 3 === 0 ? 150 : null,
  }
}

test('a layer has one object while somebody holds it, and what is known of it outlives that', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const entries = Array.from({ length: 3000 }, (_, number) => entryOf(number))
  const map = LayerMap.ofEntries(context(), entries)
  expect(map.inUse()).toEqual([])
  const find = (number: number) => {
    return map.find(entries[number] as LayerEntry)
  }
  const held = find(7)
  for (const layer of map.newestFirst) {
    layer.lastAccessMs = 1000 * layer.crc
    layer.isLocal = layer.crc % 2 === 0
  }
  expect(map.inUse()).toHaveLength(entries.length)
  await setImmediate()
  collect()
  await setImmediate()
  // The columns that reads have come to hold theirs.
  const fewer = map.inUse()
  expect(fewer.length).toBeLessThan(100)
  expect(fewer).toContain(held)
  expect(find(7)).toBe(held)
  for (let number = 0; number < entries.length; number += 7) {
    const layer = find(number)
    expect(layer?.entry).toEqual(entries[number])
    expect([layer?.lastAccessMs, layer?.isResident]).toEqual([1000 * number, number % 2 === 0])
  }
  const gone = [held, find(8), find(9)].filter((layer) => layer !== null)
  map.change([], gone)
  // Rows are used again; who still holds a layer that left keeps what was known of it.
  map.change(
    gone.map(({ entry: one }) => new Layer({ ...one, crc: 9999 }, context())),
    [],
  )
  expect(gone.map(({ lastAccessMs, isResident }) => [lastAccessMs, isResident])).toEqual([
    [7000, false],
    [8000, true],
    [9000, false],
  ])
  expect(find(7)).not.toBe(held)
  expect(find(7)?.crc).toBe(9999)
})

test('files in the folder are told from others by their names', () => {
  const entries = Array.from({ length: 30 }, (_, number) => ({
    ...entryOf(number),
    ...(number % 5 === 0 ? { splitFrom: number % 2 === 0 ? SHARD : WHOLE } : {}),
  }))
  const map = LayerMap.ofEntries(context(), entries)
  const present = entries.filter(({ crc }) => crc % 4 === 0)
  const strange = [
    `${layerFileName(entries[1] as LayerEntry)}.tmp~1`,
    layerName((entries[3] as LayerEntry).id),
    layerName({ ...(entries[1] as LayerEntry).id, serial: 77 }),
    'other',
  ]
  expect(map.noteFiles([...present.map(layerFileName), ...strange])).toEqual(strange)
  expect(new Set(map.resident().map(({ crc }) => crc))).toEqual(
    new Set(present.map(({ crc }) => crc)),
  )
  expect(map.newestFirst.every(({ isLocal }) => isLocal !== null)).toBe(true)
  expect(map.residentBytes).toBe(present.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0))
  expect(map.noteAccess(layerFileName(present[1] as LayerEntry), 120_000)).toBe(true)
  expect(map.noteAccess(layerFileName(entries[1] as LayerEntry), 120_000)).toBe(false)
  expect(map.noteAccess('other', 120_000)).toBe(false)
  expect(map.newestFirst.map(({ lastAccessMs }) => lastAccessMs).filter(Boolean)).toEqual([120_000])
  // What was kept before is not new.
  expect(map.takeAccessed()).toEqual([])
})
