import { expect, test } from 'vitest'
import { SecondChance } from './second-chance.ts'

test('lets go of what was not used lately, and never of what has just come', () => {
  const gone: string[] = []
  const things = ['a', 'b', 'c', 'd', 'e'].map((name) => ({ name, wasUsed: false }))
  const [a, b, c, d, e] = things as [
    (typeof things)[0],
    (typeof things)[0],
    (typeof things)[0],
    (typeof things)[0],
    (typeof things)[0],
  ]
  const held = new SecondChance<(typeof things)[0]>(10, ({ name }) => gone.push(name))
  held.add(a, 4)
  held.add(b, 3)
  held.add(c, 3)
  expect([held.total, held.count, gone]).toEqual([10, 3, []])
  // All were used once: all are spared once, then the oldest goes.
  held.add(d, 3)
  expect([held.total, gone]).toEqual([9, ['a']])
  b.wasUsed = true
  held.add(e, 3)
  expect([held.total, gone]).toEqual([9, ['a', 'c']])
  held.remove(b)
  held.add(a, 50)
  expect([held.total, held.count, gone]).toEqual([50, 1, ['a', 'c', 'd', 'e']])
  held.add(a, 2)
  expect([held.total, held.evicted]).toEqual([2, 4])
})
