import { expect, test } from 'vitest'
import { durationsOf } from './test-durations.ts'

test('long files come first, short ones are left out', () => {
  const file = (path: string, ms: number) => ({
    name: `/project/${path}`,
    startTime: 1000,
    endTime: 1000 + ms,
  })
  const testResults = [
    file('b.test.ts', 3400),
    file('short.test.ts', 900),
    file('a/c.test.ts', 9e4),
  ]
  const table = durationsOf({ testResults }, '/project')
  expect(Object.entries(table)).toEqual([
    ['a/c.test.ts', 90],
    ['b.test.ts', 3],
  ])
})
