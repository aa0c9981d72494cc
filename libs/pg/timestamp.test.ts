import { expect, test } from 'vitest'
import { parseTimestamp } from './timestamp.ts'

test.each([
  ['2000-01-01T00:00:00Z', 0],
  ['2000-01-01 00:00:01.5', 1_500_000],
  ['2000-01-01 01:00:00.000007+01', 7],
  ['2000-01-01 00:30:00+0030', 0],
  ['1999-12-31 23:00-01:00', 0],
])('%s', (text, us) => expect(parseTimestamp(text)).toBe(us))

test.each(['now', '2000-01-01', '2000-13-01T00:00:00Z', '2000-01-01T00:00:00.1234567Z', ''])(
  '%j is refused',
  (text) => expect(() => parseTimestamp(text)).toThrow('is not a moment'),
)
