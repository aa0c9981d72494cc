/**
 * Reads through layers of every arrangement: L0, L1 of different key ranges and the same LSNs, keys
 * split by LSN, images of some keys, inside the span of deltas and of each other. Every read gives
 * what the history alone gives.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isBaseKind, ValueKind } from '../keyspace/key-class.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { Layer, type LayerContext } from '../layers/layer.ts'
import { LayerMap } from '../layers/layer-map.ts'
import { LayerKind, newSerial } from '../layers/layer-name.ts'
import { LayerFolder } from '../layers/testing/layer-folder.ts'
import { readVersions } from './read-plan.ts'

const folder = new LayerFolder('read-plan')
const START = 1000
const END = 1100
/** Keys of the test, in order: relation and block of each. */
const KEYS = Array.from({ length: 9 }, (_, key) => ({ rel: 1 + Math.floor(key / 3), blk: key % 3 }))

interface Put {
  key: number
  lsn: number
  kind: ValueKind
  text: string
}

/** What a key is made of below a ceiling, newest first, back to the first base. */
function chainOf(history: readonly Put[], key: number, ceiling: number): Put[] {
  const newest = history.filter((put) => put.key === key && put.lsn < ceiling).reverse()
  const base = newest.findIndex(({ kind }) => isBaseKind(kind))
  return base < 0 ? newest : newest.slice(0, base + 1)
}

/** The bytes that a chain stands for; records append. */
function valueOf(chain: readonly { kind: number; text: string }[]): string {
  return chain
    .map(({ text }) => text)
    .reverse()
    .join('')
}

class Shelf {
  readonly slots = new SlotTable()
  readonly context: LayerContext = folder.context(this.slots, 1_000_000)
  readonly layers: Layer[] = []

  slot(key: number): number {
    return this.slots.intern(0, 1, 2, (KEYS[key] as { rel: number }).rel, 0)
  }

  blk(key: number): number {
    return (KEYS[key] as { blk: number }).blk
  }

  async write(
    kind: LayerKind,
    range: { keys: [number, number] | null; lsns: [number, number]; floorLsn?: number },
    puts: readonly Put[],
  ): Promise<void> {
    const [startLsn, endLsn] = range.lsns
    const [first, last] = range.keys ?? [0, 0]
    const id = {
      kind,
      firstKey: range.keys ? this.slots.key(this.slot(first), this.blk(first)) : MIN_KEY,
      lastKey: range.keys ? this.slots.key(this.slot(last), this.blk(last)) : MAX_KEY,
      startLsn,
      endLsn,
      floorLsn: range.floorLsn ?? startLsn,
      generation: 1,
      serial: newSerial(),
    }
    const writer = await folder.writer(id, this.slots)
    for (const { key, lsn, kind: valueKind, text } of puts.toSorted((a, b) => a.key - b.key)) {
      const value = Buffer.from(text)
      writer.add(this.slot(key), this.blk(key), lsn, valueKind, value, 0, value.length)
    }
    this.layers.push(new Layer(await writer.finish(), this.context))
  }
}

const shape = fc.record({
  puts: fc.array(
    fc.record({
      key: fc.nat(KEYS.length - 1),
      lsn: fc.integer({ min: START, max: END - 1 }),
      kind: fc.constantFrom(
        ValueKind.Record,
        ValueKind.Record,
        ValueKind.NativeOp,
        ValueKind.Image,
        ValueKind.RecordInit,
      ),
    }),
    { maxLength: 150 },
  ),
  /** Where layers end, and how each span is cut: not at all, by keys, or one key also by LSN. */
  lsnCuts: fc.uniqueArray(fc.integer({ min: START + 1, max: END - 1 }), { maxLength: 6 }),
  keyCuts: fc.array(
    fc.uniqueArray(fc.integer({ min: 1, max: KEYS.length - 1 }), { maxLength: 4 }),
    {
      minLength: 7,
      maxLength: 7,
    },
  ),
  splitKey: fc.option(fc.nat(KEYS.length - 1), { nil: null }),
  images: fc.array(
    fc.record({
      lsn: fc.integer({ min: START, max: END - 1 }),
      first: fc.nat(KEYS.length - 1),
      count: fc.nat(KEYS.length),
      /** How far down keys without a version are left out. */
      depth: fc.nat(60),
    }),
    { maxLength: 6 },
  ),
  /** Versions that an image up to here makes needless are gone. */
  cutoff: fc.option(fc.integer({ min: START, max: END - 1 }), { nil: null }),
  order: fc.infiniteStream(fc.nat(1000)),
})

test('every arrangement of layers gives the history', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(shape, async (one) => {
      const { puts, lsnCuts, keyCuts, splitKey, cutoff } = one
      const history: Put[] = [
        // Every key begins with a page, as in real life.
        ...KEYS.map((_, key) => ({ key, lsn: START, kind: ValueKind.Image, text: `[${key}]` })),
        ...puts
          .toSorted((a, b) => a.lsn - b.lsn)
          .map((put, index) => ({ ...put, text: `${index},` })),
      ]
      const shelf = new Shelf()
      const imaged: { key: number; lsn: number }[] = []
      for (const image of one.images) imaged.push(...(await writeImage(shelf, history, image)))
      const isNeedless = (put: Put) =>
        cutoff !== null &&
        imaged.some(({ key, lsn }) => key === put.key && put.lsn <= lsn && lsn <= cutoff)
      const kept = history.filter((put) => !isNeedless(put))
      const bounds = [START, ...lsnCuts.toSorted((a, b) => a - b), END]
      for (let span = 0; span + 1 < bounds.length; span++) {
        const lsns: [number, number] = [bounds[span] as number, bounds[span + 1] as number]
        await writeSpan(shelf, kept, lsns, keyCuts[span] ?? [], splitKey)
      }
      await check(shelf, history, layMap(shelf, one.order), cutoff ?? START - 1)
    }),
    { numRuns: Number(process.env['READ_PLAN_RUNS'] ?? 60) },
  )
})

/** Returns what is in it. */
async function writeImage(
  shelf: Shelf,
  history: readonly Put[],
  image: { lsn: number; first: number; count: number; depth: number },
): Promise<Put[]> {
  const { lsn, first } = image
  const last = Math.min(first + image.count, KEYS.length - 1)
  const floorLsn = Math.max(START, lsn - image.depth)
  const values: Put[] = []
  for (let key = first; key <= last; key++) {
    // Only keys that changed from the floor on are in it.
    if (history.some((put) => put.key === key && put.lsn >= floorLsn && put.lsn <= lsn)) {
      const text = valueOf(chainOf(history, key, lsn + 1))
      values.push({ key, lsn, kind: ValueKind.Image, text })
    }
  }
  const keys: [number, number] = [first, last]
  await shelf.write(LayerKind.Image, { keys, lsns: [lsn, lsn + 1], floorLsn }, values)
  return values
}

/** The deltas of one span of LSNs: one of all keys, or one per range of keys. */
async function writeSpan(
  shelf: Shelf,
  history: readonly Put[],
  lsns: [number, number],
  keyCuts: readonly number[],
  splitKey: number | null,
): Promise<void> {
  const mine = history.filter(({ lsn }) => lsn >= lsns[0] && lsn < lsns[1])
  if (keyCuts.length === 0) {
    await shelf.write(LayerKind.Delta, { keys: null, lsns }, mine)
    return
  }
  const cuts = new Set(keyCuts)
  if (splitKey !== null) cuts.add(splitKey).add(splitKey + 1)
  const bounds = [...new Set([0, ...cuts, KEYS.length])].sort((a, b) => a - b)
  for (let at = 0; at + 1 < bounds.length; at++) {
    const keys: [number, number] = [bounds[at] as number, (bounds[at + 1] as number) - 1]
    const held = mine.filter(({ key }) => key >= keys[0] && key <= keys[1])
    const middle = Math.floor((lsns[0] + lsns[1]) / 2)
    const isSplit = keys[0] === splitKey && keys[1] === splitKey && middle > lsns[0]
    const parts: [number, number][] = isSplit
      ? [
          [lsns[0], middle],
          [middle, lsns[1]],
        ]
      : [lsns]
    for (const [from, to] of parts) {
      const part = held.filter(({ lsn }) => lsn >= from && lsn < to)
      await shelf.write(LayerKind.Delta, { keys, lsns: [from, to] }, part)
    }
  }
}

/** A map that got its layers a few at a time, in any order, and lost some that it never needed. */
function layMap({ layers, context }: Shelf, order: Iterable<number>): LayerMap {
  const numbers = order[Symbol.iterator]()
  const next = () => numbers.next().value as number
  const shuffled = layers
    .map((layer) => ({ layer, place: next() }))
    .sort((a, b) => a.place - b.place)
    .map(({ layer }) => layer)
  const map = new LayerMap(context, shuffled.slice(0, 3))
  for (let at = 3; at < shuffled.length; ) {
    const count = 1 + (next() % 3)
    map.change(shuffled.slice(at, at + count), [])
    at += count
    const again = shuffled[next() % at] as Layer
    if (!map.newestFirst.includes(again)) continue
    map.change([], [again])
    map.change([again], [])
  }
  expect(map.newestFirst.length).toBe(layers.length)
  return map
}

async function check(
  shelf: Shelf,
  history: readonly Put[],
  layers: LayerMap,
  cutoff: number,
): Promise<void> {
  const { slots } = shelf
  const source = { slots, memory: [], layers, parent: null }
  const keys = KEYS.map((_, key) => ({ slot: shelf.slot(key), blk: shelf.blk(key) }))
  for (const ceiling of [START, START + 1, START + 20, START + 47, START + 80, END]) {
    if (ceiling <= cutoff) continue
    const found = await readVersions(source, keys, ceiling)
    for (const [key, versions] of found.entries()) {
      const chain = versions.map(({ kind, value }) => ({ kind, text: value.toString() }))
      const expected = valueOf(chainOf(history, key, ceiling))
      expect(valueOf(chain), `key ${key} below ${ceiling}`).toBe(expected)
    }
  }
}
