import { expect, test } from 'vitest'
import { lagBehind } from './timeline-positions.ts'

const POSITIONS = {
  lastRecordLsn: '0/2000',
  diskConsistentLsn: '0/1800',
  remoteConsistentLsn: '0/1000',
  lagMs: 700,
}

test('lag is what is committed and was not taken in, with its age where that is known', () => {
  expect(lagBehind(0x2500, POSITIONS)).toEqual({ bytes: 0x500, ms: 700, unstoredBytes: 0x1500 })
  // The pageserver has not heard of it, or cannot say.
  for (const lagMs of [0, null]) {
    expect(lagBehind(0x2500, { ...POSITIONS, lagMs }).ms).toBeNull()
  }
})

test('safekeepers that know less than the pageserver leave no lag', () => {
  expect(lagBehind(0x1f00, POSITIONS)).toEqual({ bytes: 0, ms: 0, unstoredBytes: 0xf00 })
  expect(lagBehind(0x900, POSITIONS)).toEqual({ bytes: 0, ms: 0, unstoredBytes: 0 })
})
