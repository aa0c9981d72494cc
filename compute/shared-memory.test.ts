import { expect, test } from 'vitest'
import { isLeft } from './shared-memory.ts'

const TABLE = `       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid
   4385771    2392065   600                    56  1392  1400      0   999   995   999   995
   4385844    2392067   600                    56  1497  1498      6   999   995   999   995
`

test('a segment is left when its maker has ended and nobody is attached', () => {
  expect(isLeft(TABLE, { postmaster: 1392, key: 4385771, id: 2392065 })).toBe(true)
})

test.each([
  ['attached', { postmaster: 1497, key: 4385844, id: 2392067 }],
  ['of another key, as after a reboot', { postmaster: 1392, key: 1, id: 2392065 }],
  ['made by another process', { postmaster: 1, key: 4385771, id: 2392065 }],
  ['not there', { postmaster: 1392, key: 4385771, id: 7 }],
])('one that is %s is not', (_, segment) => {
  expect(isLeft(TABLE, segment)).toBe(false)
  expect(isLeft('', segment)).toBe(false)
})
