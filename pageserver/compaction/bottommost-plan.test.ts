import { describe, expect, test } from 'vitest'
import { type Key, MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { type BottomState, horizonOf, isCut, planBottom } from './bottommost-plan.ts'
import type { PlanLayer } from './image-columns.ts'

const LIMITS = { bottomGainBytes: 20, imageLayerBytes: 128 }

function key(rel: number): Key {
  return { cls: 0, spc: 0, db: 0, rel, fork: 0, blk: 0 }
}

interface Shape {
  name: string
  from?: number
  to?: number
  start: number
  end?: number
  floor?: number
  bytes?: number
}

interface Named extends PlanLayer {
  name: string
}

function delta(shape: Shape): Named {
  const { name, from, to, start, end = start + 10, bytes = 10 } = shape
  const firstKey = from === undefined ? MIN_KEY : key(from)
  const lastKey = to === undefined ? MAX_KEY : key(to)
  const id = { kind: LayerKind.Delta, firstKey, lastKey, startLsn: start, endLsn: end }
  const isL0 = from === undefined && to === undefined
  return {
    name,
    id: { ...id, floorLsn: start, generation: 1 },
    endLsn: end,
    sizeBytes: bytes,
    isL0,
  }
}

function image(shape: Shape): Named {
  const made = delta({ ...shape, end: shape.start + 1 })
  return {
    ...made,
    isL0: false,
    id: { ...made.id, kind: LayerKind.Image, floorLsn: shape.floor ?? 0 },
  }
}

function plan(layers: Named[], horizonLsn: number, more: Partial<BottomState<Named>> = {}) {
  const state = { layers, horizonLsn, retainedPoints: [], oldestLsn: 0, isSettled: () => false }
  const names = (some: readonly Named[]) => some.map(({ name }) => name).sort()
  return planBottom({ ...state, ...more }, LIMITS).map(({ inputs, remove, ...rest }) => ({
    ...rest,
    inputs: names(inputs),
    remove: names(remove),
  }))
}

describe('the horizon', () => {
  const l1 = delta({ name: 'l1', from: 1, to: 9, start: 10, end: 50 })

  test('is the cutoff, or the boundary of L0 and L1 below it', () => {
    expect(horizonOf([l1], 30, 49)).toBe(30)
    expect(horizonOf([l1], 80, 49)).toBe(49)
  })

  test('is nowhere when something was collapsed above the boundary', () => {
    expect(horizonOf([l1, image({ name: 'i', start: 60 })], 80, 49)).toBe(null)
    expect(horizonOf([l1], 80, 29)).toBe(null)
  })
})

describe('a plan', () => {
  const base = image({ name: 'base', start: 20, bytes: 100 })

  test('is made when what is below the horizon weighs twice what is left', () => {
    const d1 = delta({ name: 'd1', from: 1, to: 9, start: 21, bytes: 60 })
    const d2 = delta({ name: 'd2', from: 1, to: 9, start: 31, bytes: 60 })
    expect(plan([base, d1], 50)).toEqual([])
    expect(plan([base, d1, d2], 50)).toMatchObject([
      { points: [50], hasBase: false, inputs: ['base', 'd1', 'd2'], remove: ['base', 'd1', 'd2'] },
    ])
    // What reaches across the horizon counts as far as it lies below, and stays.
    expect(plan([base, d1, d2], 35)).toEqual([])
    const heavy = delta({ name: 'heavy', from: 1, to: 9, start: 31, bytes: 200 })
    expect(plan([base, d1, heavy], 35)).toMatchObject([
      { inputs: ['base', 'd1', 'heavy'], remove: ['base', 'd1'] },
    ])
  })

  test('leaves out what lies hidden, and takes it away', () => {
    const old = delta({ name: 'old', from: 1, to: 9, start: 5, bytes: 1000 })
    const wide = delta({ name: 'wide', start: 1, bytes: 1000 })
    expect(plan([base, old, wide], 50)).toEqual([])
    const d1 = delta({ name: 'd1', from: 1, to: 9, start: 21, bytes: 120 })
    const [one] = plan([base, old, wide, d1], 50)
    expect(one).toMatchObject({ inputs: ['base', 'd1'] })
    expect(one?.remove).toEqual(['base', 'd1', 'old', 'wide'])
  })

  test('with points below the horizon replaces what lies above the lowest', () => {
    const d1 = delta({ name: 'd1', from: 1, to: 9, start: 21, bytes: 90 })
    const d2 = delta({ name: 'd2', from: 1, to: 9, start: 31, end: 60, bytes: 290 })
    const state = { retainedPoints: [25, 70] }
    expect(plan([base, d1, d2], 50, state)).toMatchObject([
      { points: [25, 50], inputs: ['base', 'd1', 'd2'], remove: ['base', 'd1', 'd2'] },
    ])
    expect(isCut(d2, [25, 50])).toBe(true)
    expect(isCut(d2, [50])).toBe(false)
    expect(isCut(base, [25, 50])).toBe(false)
  })

  test('keeps an image that is the state at the lowest point', () => {
    const d1 = delta({ name: 'd1', from: 1, to: 9, start: 21, bytes: 90 })
    expect(plan([base, d1], 50, { retainedPoints: [20] })).toMatchObject([
      { points: [20, 50], hasBase: true, inputs: ['d1'], remove: ['d1'] },
    ])
  })

  test('is not made of results of earlier runs alone', () => {
    const d1 = delta({ name: 'd1', from: 1, to: 9, start: 21, bytes: 90 })
    const state = { retainedPoints: [20], isSettled: ({ name }: Named) => name === 'd1' }
    expect(plan([base, d1], 50, state)).toEqual([])
    const d2 = delta({ name: 'd2', from: 1, to: 9, start: 31, bytes: 90 })
    expect(plan([base, d1, d2], 50, state)).toHaveLength(1)
  })

  test("a branch's points at its start are its ancestor's", () => {
    const d1 = delta({ name: 'd1', from: 1, to: 9, start: 21, bytes: 90 })
    expect(plan([d1], 50, { retainedPoints: [20], oldestLsn: 21 })).toMatchObject([
      { points: [50], inputs: ['d1'] },
    ])
    expect(plan([d1], 20, { oldestLsn: 21 })).toEqual([])
  })
})
