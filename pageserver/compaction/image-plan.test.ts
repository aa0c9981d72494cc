import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compareKeys, type Key, MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { keyAfter, rangesOverlap } from '../keyspace/key-range.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { ColumnState } from './column-depth.ts'
import { columnsOf, type PlanLayer } from './image-columns.ts'
import { boundaryLsn, type ImageLimits, planImages } from './image-plan.ts'

const LIMITS: ImageLimits = {
  imageDeltaBytes: 32,
  imageDepth: 3,
  imageAfterDeltas: 20,
  maxImageSets: 4,
  imageLayerBytes: 128,
}

function key(rel: number): Key {
  return { cls: 0, spc: 0, db: 0, rel, fork: 0, blk: 0 }
}

interface Shape {
  from?: number
  to?: number
  start: number
  end?: number
  floor?: number
  bytes?: number
}

function delta({ from, to, start, end = start + 10, bytes = 10 }: Shape): PlanLayer {
  const firstKey = from === undefined ? MIN_KEY : key(from)
  const lastKey = to === undefined ? MAX_KEY : key(to)
  const id = { kind: LayerKind.Delta, firstKey, lastKey, startLsn: start, endLsn: end }
  return {
    id: { ...id, floorLsn: start, generation: 1 },
    endLsn: end,
    sizeBytes: bytes,
    isL0: from === undefined && to === undefined,
  }
}

function image(shape: Shape): PlanLayer {
  const { id, sizeBytes } = delta({ ...shape, end: shape.start + 1 })
  return {
    id: { ...id, kind: LayerKind.Image, floorLsn: shape.floor ?? 0 },
    endLsn: id.endLsn,
    sizeBytes,
    isL0: false,
  }
}

function plan(
  layers: PlanLayer[],
  imageLsn: number,
  oldestLsn: number,
  limits: ImageLimits,
  all = false,
  isSettled: (layer: PlanLayer) => boolean = () => false,
  depthBound: (column: ColumnState, count: number) => number = () => 0,
) {
  return planImages({ layers, imageLsn, oldestLsn, isSettled, depthBound, all }, limits)
}

describe('boundary', () => {
  test('lies just below the oldest L0 layer, and is durable', () => {
    const l1 = delta({ from: 1, to: 9, start: 10, end: 50 })
    expect(boundaryLsn([l1], 49)).toBe(49)
    expect(boundaryLsn([l1, delta({ start: 50 }), delta({ start: 60 })], 69)).toBe(49)
    expect(boundaryLsn([delta({ start: 50 })], 20)).toBe(20)
  })

  test('is not held up by an import, nor by L0 layers below images', () => {
    const imported = delta({ start: 5, end: 6 })
    expect(boundaryLsn([imported, delta({ start: 50 })], 59)).toBe(49)
    expect(boundaryLsn([delta({ start: 10 }), image({ start: 30 })], 39)).toBe(39)
  })
})

describe('plan', () => {
  const base = [
    image({ to: 9, start: 20, bytes: 100 }),
    image({ from: 10, start: 20, bytes: 100 }),
  ].map((one, index) => {
    // Two files of one set: the second begins just after the first.
    if (index === 1) (one.id as { firstKey: Key }).firstKey = keyAfter(key(9))
    return one
  })

  test('a column is due by the bytes of its own deltas', () => {
    const low = delta({ from: 1, to: 5, start: 21, bytes: 60 })
    const high = delta({ from: 11, to: 15, start: 21, bytes: 40 })
    const [one, ...more] = plan([...base, low, high], 40, 0, LIMITS)
    expect(more).toEqual([])
    expect(one).toMatchObject({ firstKey: MIN_KEY, lastKey: key(9), imageLsn: 40, floorLsn: 21 })
    expect(one?.inputs).toEqual([low])
  })

  test('small deltas are left alone until there are many, or all are asked for', () => {
    const small = delta({ from: 1, to: 5, start: 21, bytes: 1 })
    expect(plan([small], 40, 0, LIMITS)).toEqual([])
    expect(plan([small], 40, 0, LIMITS, true)).toHaveLength(1)
    const many = Array.from({ length: 20 }, (_, index) =>
      delta({ from: 1, to: 5, start: 100 + 10 * index, bytes: 1 }),
    )
    expect(plan(many, 400, 0, LIMITS)[0]).toMatchObject({ floorLsn: 0, urgency: 1 })
  })

  test('a column is due when reads come to several of its deltas', () => {
    const few = [21, 31, 41].map((start) => delta({ from: 1, to: 5, start, bytes: 1 }))
    const deep = (depth: number) =>
      plan([...base, ...few], 60, 0, LIMITS, false, undefined, () => depth)
    expect(deep(2.9)).toEqual([])
    const [one] = deep(3)
    expect(one).toMatchObject({ urgency: 1, isForDepth: true, sinceLsn: 21, floorLsn: 21 })
    expect(one?.deltas).toHaveLength(3)
    const heavy = [...base, ...few, delta({ from: 1, to: 5, start: 51, bytes: 60 })]
    expect(plan(heavy, 60, 0, LIMITS, false, undefined, () => 3)[0]?.isForDepth).toBe(false)
  })

  test('images of what changed are followed by one that stands for all', () => {
    const wide = delta({ from: 1, to: 5, start: 31, bytes: 90 })
    const partial = image({ to: 9, start: 30, floor: 21, bytes: 60 })
    const [one] = plan([...base, partial, wide], 40, 0, LIMITS)
    expect(one?.floorLsn).toBe(0)
    expect(one?.inputs).toEqual([wide, partial, base[0]])
    const small = image({ to: 9, start: 30, floor: 21, bytes: 10 })
    const [again] = plan([...base, small, wide], 40, 0, LIMITS)
    expect(again?.floorLsn).toBe(31)
    expect(again?.inputs).toEqual([wide])
  })

  test('what bottom-most compaction wrote asks for no images', () => {
    const kept = delta({ from: 1, to: 5, start: 21, bytes: 500 })
    const more = delta({ from: 1, to: 5, start: 31, bytes: 500 })
    const isKept = (layer: PlanLayer) => layer === kept
    expect(plan([...base, kept], 40, 0, LIMITS, true, isKept)).toEqual([])
    expect(plan([...base, kept, more], 40, 0, LIMITS, false, isKept)[0]?.inputs).toEqual([
      more,
      kept,
    ])
  })

  test('an import counts as an image of all keys', () => {
    const imported = delta({ start: 5, end: 6, bytes: 1000 })
    const changes = delta({ from: 1, to: 5, start: 21, bytes: 40 })
    expect(plan([imported, changes], 40, 5, LIMITS)).toEqual([])
    const [one] = plan([imported, changes], 40, 5, LIMITS, true)
    expect(one).toMatchObject({ floorLsn: 6, inputs: [changes] })
  })

  test('no image is made where a delta reaches across its LSN', () => {
    const across = delta({ from: 1, to: 5, start: 35, end: 50, bytes: 90 })
    const below = delta({ from: 1, to: 5, start: 21, bytes: 90 })
    expect(plan([across, below], 40, 0, LIMITS, true)).toEqual([])
  })
})

describe('an image of all keys', () => {
  test('holds what a rewritten history has in a delta below an image of what changed', () => {
    const base = image({ to: 9, start: 20, bytes: 100 })
    // Once two images, at 30 and 40, lay above it; the rewriting took the first into a delta.
    const kept = delta({ from: 1, to: 5, start: 21, end: 36, bytes: 5 })
    const partial = image({ to: 9, start: 40, floor: 31, bytes: 60 })
    const wide = delta({ from: 1, to: 5, start: 41, bytes: 90 })
    const [one] = plan([base, kept, partial, wide], 60, 0, LIMITS)
    expect(one).toMatchObject({ floorLsn: 0, inputs: [wide, kept, partial, base] })
  })

  test('misses no delta of which no image tells', () => {
    const bound = fc.tuple(fc.nat(60), fc.nat(60)).map(([a, b]) => [Math.min(a, b), Math.max(a, b)])
    const shape = fc.record({
      bound,
      isImage: fc.boolean(),
      bytes: fc.integer({ min: 1, max: 90 }),
    })
    let whole = 0
    fc.assert(
      fc.property(fc.array(shape, { maxLength: 8 }), (shapes) => {
        const layers = shapes.map(({ bound: [from = 0, to = 0], isImage, bytes }) =>
          isImage
            ? image({ start: to, floor: from, bytes })
            : delta({ from: 1, to: 5, start: from, end: to + 1, bytes }),
        )
        for (const { floorLsn, inputs } of plan(layers, 60, 0, LIMITS, true)) {
          const isTold = (lsn: number) =>
            inputs.some(
              ({ id }) => id.kind === LayerKind.Image && id.floorLsn <= lsn && lsn <= id.startLsn,
            )
          for (const layer of layers) {
            if (layer.id.kind === LayerKind.Image || inputs.includes(layer)) continue
            for (let lsn = Math.max(layer.id.startLsn, floorLsn); lsn < layer.endLsn; lsn++) {
              expect(isTold(lsn)).toBe(true)
            }
          }
          if (floorLsn === 0 && inputs.length < layers.length) whole++
        }
      }),
      { numRuns: 2000 },
    )
    expect(whole).toBeGreaterThan(10)
  })
})

test('columns tile the keys, and each image covers a column or has none of its keys', () => {
  const bound = fc.tuple(fc.nat(30), fc.nat(30)).map(([a, b]) => [Math.min(a, b), Math.max(a, b)])
  const layer = fc
    .record({ bound, start: fc.nat(50), isImage: fc.boolean(), floor: fc.nat(5) })
    .map(({ bound: [from, to], start, isImage, floor }) => {
      const shape = { from: from as number, to: to as number, start, floor }
      return isImage ? image(shape) : delta(shape)
    })
  fc.assert(
    fc.property(fc.array(layer, { maxLength: 12 }), (layers) => {
      const columns = columnsOf(layers, 128)
      expect(columns[0]?.firstKey).toEqual(MIN_KEY)
      expect(columns.at(-1)?.lastKey).toEqual(MAX_KEY)
      for (const [index, column] of columns.entries()) {
        const before = columns[index - 1]
        if (before) expect(column.firstKey).toEqual(keyAfter(before.lastKey))
        for (const one of layers) {
          if (one.id.kind === LayerKind.Delta) {
            const has = column.deltas.some((share) => share.layer === one)
            expect(has).toBe(rangesOverlap(one.id, column))
            continue
          }
          const inside =
            compareKeys(column.firstKey, one.id.firstKey) >= 0 &&
            compareKeys(column.lastKey, one.id.lastKey) <= 0
          const isOne = column.images.some((share) => share.layer === one)
          if (isOne && !inside) expect(column.images.length).toBeGreaterThan(1)
          if (!rangesOverlap(one.id, column)) expect(isOne).toBe(false)
        }
      }
      for (const one of layers) {
        if (one.id.kind !== LayerKind.Delta) continue
        const shares = columns.flatMap(({ deltas }) =>
          deltas.filter((share) => share.layer === one),
        )
        const sum = shares.reduce((total, { bytes }) => total + bytes, 0)
        expect(sum).toBeCloseTo(one.sizeBytes)
      }
    }),
  )
})
