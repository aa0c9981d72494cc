import { expect, test } from 'vitest'
import { NO_XMINS } from '#libs/protocol/standby-xmins.ts'
import { StandbyHorizon } from './standby-horizon.ts'

const at = (xmin: bigint, catalogXmin = 0n) => ({ xmin, catalogXmin })

test('the oldest need of all safekeepers counts, and none means no need', () => {
  const horizon = new StandbyHorizon()
  expect(horizon.at(0)).toEqual(NO_XMINS)
  horizon.heard(1, at(900n, 5n), 0)
  horizon.heard(2, at(0n), 0)
  expect(horizon.at(0)).toEqual(at(900n, 5n))
  horizon.heard(2, at(4294967296n + 3n), 0)
  expect(horizon.at(0)).toEqual(at(900n, 5n))
  horizon.heard(1, at(0n), 0)
  expect(horizon.at(5_000)).toEqual(at(900n, 5n))
  expect(horizon.at(5_001)).toEqual(at(4294967296n + 3n))
})

test('what a lost safekeeper said counts for a while, or until it is back', () => {
  const horizon = new StandbyHorizon()
  horizon.heard(1, at(900n), 0)
  horizon.lost(1, 1000)
  horizon.lost(1, 20_000)
  expect(horizon.at(31_000)).toEqual(at(900n))
  expect(horizon.at(31_001)).toEqual(NO_XMINS)
  horizon.heard(1, at(901n), 40_000)
  horizon.lost(1, 41_000)
  horizon.heard(1, at(902n), 42_000)
  expect(horizon.at(1_000_000)).toEqual(at(902n))
})
