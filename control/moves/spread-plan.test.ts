import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { PlacementRecord } from '../records.ts'
import { beginMove } from './placement-changes.ts'
import { planSpread } from './spread-plan.ts'

const NOW = new Date('2026-01-01T00:00:00Z')
const NO_LOAD = new Map<number, number>()

const at = (...pageserverIds: number[]): PlacementRecord[] =>
  pageserverIds.map((pageserverId, shard) => ({
    shard,
    pageserverId,
    generation: 1,
    secondary: null,
  }))

/** All moves, one after the other. */
function spread(
  placements: PlacementRecord[],
  targets: readonly number[],
  load: ReadonlyMap<number, number> = NO_LOAD,
): { moves: number; placements: PlacementRecord[] } {
  let now = placements
  for (let moves = 0; ; moves++) {
    const step = planSpread(now, targets, load)
    if (step.kind === 'done') return { moves, placements: now }
    if (step.kind === 'wait' || moves > now.length) throw new Error('it does not end')
    const { shard, from, to } = step
    expect(now[shard]).toMatchObject({ pageserverId: from })
    now = now.map((one) => (one.shard === shard ? { ...one, pageserverId: to } : one))
  }
}

const idsOf = (placements: readonly PlacementRecord[]) => placements.map((one) => one.pageserverId)

describe('the shards of a tenant', () => {
  it('get onto the pageservers with the fewest, shard 0 last', () => {
    expect(idsOf(spread(at(1, 1), [1, 2]).placements)).toEqual([1, 2])
    expect(idsOf(spread(at(1, 2, 1, 2), [1, 2, 3, 4]).placements)).toEqual([1, 2, 4, 3])
    expect(idsOf(spread(at(1, 1, 1, 1), [1, 2]).placements)).toEqual([1, 1, 2, 2])
    const load = new Map([
      [2, 5],
      [3, 1],
    ])
    expect(planSpread(at(1, 1), [1, 2, 3], load)).toEqual({
      kind: 'move',
      shard: 1,
      from: 1,
      to: 3,
    })
  })

  it('go first where they have a warm copy', () => {
    const [first, second, third] = at(1, 1, 1) as [
      PlacementRecord,
      PlacementRecord,
      PlacementRecord,
    ]
    const warm = [first, { ...second, secondary: 2 }, { ...third, secondary: 3 }]
    expect(planSpread(warm, [1, 2], NO_LOAD)).toMatchObject({ shard: 1, to: 2 })
    expect(planSpread([first, second, third], [1, 2], NO_LOAD)).toMatchObject({ shard: 2, to: 2 })
  })

  it('stay where they are when they are even, or there is nobody else', () => {
    expect(planSpread(at(1, 1, 2), [1, 2], NO_LOAD)).toEqual({ kind: 'done' })
    expect(planSpread(at(1, 1, 1), [1], NO_LOAD)).toEqual({ kind: 'done' })
    expect(planSpread(at(1, 1, 1), [], NO_LOAD)).toEqual({ kind: 'done' })
  })

  it('wait for one another; those that are to go home, or whose pageserver is silent, stay', () => {
    const [first, second] = at(1, 1) as [PlacementRecord, PlacementRecord]
    expect(planSpread([beginMove(first, 2, NOW), second], [1, 2], NO_LOAD)).toEqual({
      kind: 'wait',
    })
    expect(planSpread([first, { ...second, home: 3 }], [1, 2], NO_LOAD)).toMatchObject({ shard: 0 })
    const away = at(1, 1).map((one) => ({ ...one, home: 3 }))
    expect(planSpread(away, [1, 2], NO_LOAD)).toEqual({ kind: 'done' })
    expect(planSpread(at(3, 3, 3), [1, 2], NO_LOAD)).toEqual({ kind: 'done' })
  })

  it('become as even as can be, with as few moves as that takes', () => {
    const nodes = fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 6 })
    const loads = fc.array(fc.integer({ min: 0, max: 20 }), { minLength: 7, maxLength: 7 })
    const shards = fc.array(fc.nat(5), { minLength: 1, maxLength: 16 })
    fc.assert(
      fc.property(nodes, loads, shards, (targets, load, picks) => {
        const before = at(...picks.map((pick) => targets[pick % targets.length] as number))
        const { moves, placements } = spread(before, targets, new Map(load.entries()))
        const count = (of: readonly PlacementRecord[], id: number) =>
          of.filter((one) => one.pageserverId === id).length
        const after = targets.map((id) => count(placements, id))
        expect(Math.max(...after) - Math.min(...after)).toBeLessThanOrEqual(1)
        // Each move fills a place that has to be filled.
        const gained = targets.map((id) => Math.max(count(placements, id) - count(before, id), 0))
        expect(moves).toBe(gained.reduce((total, one) => total + one, 0))
      }),
      { numRuns: 500 },
    )
  })
})
