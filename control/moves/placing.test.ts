import { expect, it } from 'vitest'
import type { NodeRecord, PlacementRecord } from '../records.ts'
import { beginMove } from './placement-changes.ts'
import { chooseHeir, choosePageservers, leastLoaded } from './placing.ts'

const node = (id: number, state?: 'draining'): NodeRecord => ({
  id,
  host: '127.0.0.1',
  pgPort: 6400 + id,
  httpPort: 9800 + id,
  ...(state ? { state } : {}),
})
const NODES = [node(1), node(2), node(3, 'draining'), node(4)]
const LOAD = new Map([
  [1, 3],
  [2, 1],
])

it('fills the least loaded first, and none that is being emptied', () => {
  expect(leastLoaded(NODES, LOAD).map(({ id }) => id)).toEqual([4, 2, 1])
  expect(choosePageservers(NODES, LOAD, 1)).toEqual([4])
  expect(choosePageservers(NODES, LOAD, 4)).toEqual([4, 2, 4, 2])
  expect(() => choosePageservers([node(3, 'draining')], LOAD, 1)).toThrow('No pageserver takes')
})

it('lets the one take over that still serves, else a warm one, else the least loaded', () => {
  const placement: PlacementRecord = { shard: 0, pageserverId: 9, generation: 4, secondary: 1 }
  expect(chooseHeir(placement, NODES, LOAD)).toBe(1)
  expect(chooseHeir({ ...placement, secondary: 8 }, NODES, LOAD)).toBe(4)
  const moving = beginMove(placement, 2, new Date())
  expect(chooseHeir(moving, NODES, LOAD)).toBe(2)
  expect(chooseHeir({ ...moving, pageserverId: 2 }, [node(1), node(9)], LOAD)).toBe(9)
  expect(() => chooseHeir(placement, [], LOAD)).toThrow('No other pageserver answers')
})
