/** The rule of what may go, against brute force: a toy timeline read at every state that is kept. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Key, MAX_BLOCK, MIN_KEY } from '../keyspace/key.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { type LayerShape, removableLayers } from './removable.ts'

const KEYS = 6

interface ToyLayer extends LayerShape {
  /** Key, LSN of each version; an image has one per key that it holds, at the version's LSN. */
  readonly versions: readonly { blk: number; lsn: number }[]
}

const key = (blk: number): Key => ({ ...MIN_KEY, blk })

function delta(first: number, last: number, startLsn: number, endLsn: number): ToyLayer {
  const id = { kind: LayerKind.Delta, firstKey: key(first), lastKey: key(last), startLsn }
  return { id: { ...id, floorLsn: startLsn }, endLsn, origin: null, versions: [] }
}

function image(first: number, last: number, startLsn: number, floorLsn: number): ToyLayer {
  const id = { kind: LayerKind.Image, firstKey: key(first), lastKey: key(last), startLsn }
  return { id: { ...id, floorLsn }, endLsn: startLsn + 1, origin: null, versions: [] }
}

/** As a read does it: down by end LSN, images before deltas, past an image's floor when it lacks the key. */
function read(layers: readonly ToyLayer[], blk: number, lsn: number): number[] {
  const chain: number[] = []
  let ceiling = lsn + 1
  const imageCeiling = lsn + 1
  const order = layers.toSorted((a, b) => b.endLsn - a.endLsn || b.id.kind - a.id.kind)
  for (const layer of order) {
    const { id } = layer
    const below = id.kind === LayerKind.Image ? imageCeiling : ceiling
    if (id.startLsn >= below || blk < id.firstKey.blk || blk > id.lastKey.blk) continue
    const own = layer.versions.filter((version) => version.blk === blk)
    if (id.kind === LayerKind.Image) {
      const held = own[0]
      // The image stands for the whole chain below: what it was made of is its value.
      if (held) return [...chain, -held.lsn]
      ceiling = Math.min(ceiling, id.floorLsn)
    } else {
      const seen = own.filter((version) => version.lsn < ceiling).map((version) => version.lsn)
      chain.push(...seen.sort((a, b) => b - a))
    }
  }
  return chain
}

/** The newest version's LSN says which state it is; an image gives the one that it was made of. */
function valueAt(layers: readonly ToyLayer[], blk: number, lsn: number): number | undefined {
  const newest = read(layers, blk, lsn)[0]
  return newest === undefined ? undefined : Math.abs(newest)
}

/** A base is reached: otherwise the older versions are part of the value. */
function bottom(layers: readonly ToyLayer[], blk: number, lsn: number): string {
  const chain = read(layers, blk, lsn)
  const base = chain.findIndex((one) => one < 0)
  return JSON.stringify(base >= 0 ? Math.abs(chain[base] as number) : chain.at(-1))
}

interface Scene {
  layers: ToyLayer[]
  tipLsn: number
}

const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ op: fc.constant('write' as const), blk: fc.nat(KEYS - 1) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('flush' as const), cut: fc.nat(KEYS) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('image' as const),
      full: fc.boolean(),
      cut: fc.nat(KEYS),
      /** The columns that get one: bit 0 below the cut, bit 1 above. */
      columns: fc.integer({ min: 1, max: 3 }),
    }),
  },
)

/** Builds a timeline as ingest, flush and image creation would, LSN by LSN. */
function build(steps: readonly (typeof step extends fc.Arbitrary<infer T> ? T : never)[]): Scene {
  const layers: ToyLayer[] = []
  let lsn = 1
  let open: { blk: number; lsn: number }[] = []
  let openStart = 1
  const flush = (cut: number) => {
    if (open.length === 0) return
    for (const [first, last] of pieces(cut)) {
      const versions = open.filter(({ blk }) => blk >= first && blk <= last)
      if (versions.length > 0) {
        layers.push({ ...delta(first, last, openStart, lsn + 1), versions })
      }
    }
    open = []
    openStart = lsn + 1
  }
  for (const one of steps) {
    if (one.op === 'write') open.push({ blk: one.blk, lsn: ++lsn })
    else if (one.op === 'flush') flush(one.cut)
    else {
      flush(0)
      for (const [index, [first, last]] of pieces(one.cut).entries()) {
        if ((one.columns & (1 << index)) === 0) continue
        const before = layers.filter(
          ({ id }) =>
            id.kind === LayerKind.Image && id.firstKey.blk <= last && id.lastKey.blk >= first,
        )
        const lastImage = Math.max(0, ...before.map(({ id }) => id.startLsn))
        if (lastImage === lsn) continue
        const floorLsn = one.full ? 1 : lastImage + 1
        const versions = []
        for (let blk = first; blk <= last; blk++) {
          const value = valueAt(layers, blk, lsn)
          if (value !== undefined && value >= floorLsn) versions.push({ blk, lsn: value })
        }
        layers.push({ ...image(first, last, lsn, floorLsn), versions })
      }
    }
  }
  flush(0)
  return { layers, tipLsn: lsn }
}

function pieces(cut: number): [number, number][] {
  if (cut === 0 || cut >= KEYS) return [[0, KEYS - 1]]
  return [
    [0, cut - 1],
    [cut, KEYS - 1],
  ]
}

describe('removable layers', () => {
  test('removing them changes no state that is kept', () => {
    let removed = 0
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 12, maxLength: 40 }),
        fc.double({ min: 0.5, max: 1, noNaN: true }),
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 3 }),
        (steps, cutoffShare, pointShares) => {
          const { layers, tipLsn } = build(steps)
          const cutoff = 1 + Math.floor(cutoffShare * (tipLsn - 1))
          const points = pointShares.map((share) => 1 + Math.floor(share * (cutoff - 1)))
          const kept = [...new Set([...points, cutoff])].sort((a, b) => a - b)
          const gone = new Set(removableLayers(layers, kept))
          removed += gone.size
          const left = layers.filter((layer) => !gone.has(layer))
          const states = [...kept]
          for (let lsn = cutoff; lsn <= tipLsn; lsn++) states.push(lsn)
          for (const lsn of states) {
            for (let blk = 0; blk < KEYS; blk++) {
              expect(valueAt(left, blk, lsn)).toBe(valueAt(layers, blk, lsn))
              expect(bottom(left, blk, lsn)).toBe(bottom(layers, blk, lsn))
            }
          }
          expect(removableLayers(left, kept)).toEqual([])
        },
      ),
      { numRuns: 800 },
    )
    // The scenes do have something to remove.
    expect(removed).toBeGreaterThan(200)
  })

  test('what lies below an image goes once the cutoff has passed it', () => {
    const old = delta(0, 5, 1, 10)
    const cover = image(0, 5, 9, 1)
    const young = delta(0, 5, 10, 20)
    const layers = [old, cover, young]
    expect(removableLayers(layers, [8])).toEqual([])
    expect(removableLayers(layers, [9])).toEqual([old])
    expect(removableLayers(layers, [19])).toEqual([old])
  })

  test('a retained point keeps what is visible at it, and nothing between the points', () => {
    const first = delta(0, 5, 1, 10)
    const firstImage = image(0, 5, 9, 1)
    const middle = delta(0, 5, 10, 20)
    const middleImage = image(0, 5, 19, 1)
    const layers = [first, firstImage, middle, middleImage]
    expect(removableLayers(layers, [5, 19])).toEqual([firstImage, middle])
    expect(removableLayers(layers, [9, 19])).toEqual([first, middle])
    expect(removableLayers(layers, [15, 19])).toEqual([first])
  })

  test('an image covers nothing that lies below its floor', () => {
    const old = delta(0, 5, 1, 10)
    const partial = image(0, 5, 19, 10)
    const young = delta(0, 5, 10, 20)
    expect(removableLayers([old, partial, young], [19])).toEqual([young])
    expect(removableLayers([old, partial, young, image(0, 5, 19, 1)], [19])).toContain(old)
  })

  test('images cover a wide layer only together, without a gap', () => {
    const wide = delta(0, 5, 1, 10)
    const left = image(0, 2, 9, 1)
    const right = image(3, 5, 12, 1)
    expect(removableLayers([wide, left, right], [11])).toEqual([])
    expect(removableLayers([wide, left, right], [12])).toEqual([wide])
    expect(removableLayers([wide, left, image(4, 5, 12, 1)], [12])).toEqual([])
  })

  test('layers cut at any key lie side by side', () => {
    const wide = delta(0, 5, 1, 10)
    const upTo = (last: Key) => ({
      ...image(0, 0, 9, 1),
      id: { ...image(0, 0, 9, 1).id, lastKey: last },
    })
    const from = (first: Key) => {
      const rest = image(0, 5, 9, 1)
      return { ...rest, id: { ...rest.id, firstKey: first, lastKey: { ...first, rel: 9 } } }
    }
    const all = { ...wide, id: { ...wide.id, lastKey: { ...key(0), rel: 5 } } }
    const end = { ...key(MAX_BLOCK), fork: 0xff }
    expect(removableLayers([all, upTo(end), from({ ...key(0), rel: 1 })], [20])).toEqual([all])
    expect(removableLayers([all, upTo(end), from({ ...key(1), rel: 1 })], [20])).toEqual([])
  })

  test('a layer taken over covers none of our own, since it lacks classes', () => {
    const own = delta(0, 5, 1, 10)
    const adopted = { ...image(0, 5, 9, 1), origin: 'a'.repeat(32) }
    expect(removableLayers([own, adopted], [20])).toEqual([])
    expect(removableLayers([{ ...own, origin: 'a'.repeat(32) }, adopted], [20])).toHaveLength(1)
  })
})
