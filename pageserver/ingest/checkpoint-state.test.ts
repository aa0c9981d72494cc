import { describe, expect, it } from 'vitest'
import {
  decodeCheckpointState,
  encodeCheckpointState,
  fullXid,
  laterId,
  nextXidPast,
} from './checkpoint-state.ts'
import { exampleState } from './testing/example-state.ts'

const EPOCH = 2 ** 32

describe('checkpoint state', () => {
  it('comes back as it was written', () => {
    expect(decodeCheckpointState(encodeCheckpointState(exampleState))).toEqual(exampleState)
  })

  it('is read from a blob that was written before commit times were kept', () => {
    const blob = encodeCheckpointState(exampleState).subarray(0, 148)
    blob.writeUInt16LE(1, 88)
    expect(decodeCheckpointState(blob)).toEqual({ ...exampleState, lastCommitTimeUs: 0 })
  })

  it('refuses a blob of another format', () => {
    const blob = encodeCheckpointState(exampleState)
    blob.writeUInt16LE(9, 88)
    expect(() => decodeCheckpointState(blob)).toThrow(/unreadable/)
  })
})

describe('nextXidPast', () => {
  it('ignores the special xids, also beyond 2^31', () => {
    for (const next of [1000, 2 ** 31 + 5, 7 * EPOCH + 0xfffffff0]) {
      for (const xid of [0, 1, 2]) expect(nextXidPast(next, xid)).toBe(next)
    }
  })

  it('moves forward only, into the next epoch past the special xids', () => {
    expect(nextXidPast(1000, 999)).toBe(1000)
    expect(nextXidPast(1000, 1000)).toBe(1001)
    expect(nextXidPast(1000, 5000)).toBe(5001)
    expect(nextXidPast(0xfffffff0, 0xffffffff)).toBe(EPOCH + 3)
    expect(nextXidPast(0xfffffff0, 10)).toBe(EPOCH + 11)
    expect(nextXidPast(3 * EPOCH + 10, 0xfffffff0)).toBe(3 * EPOCH + 10)
  })
})

describe('fullXid', () => {
  it('finds the epoch of an older transaction', () => {
    expect(fullXid(2 * EPOCH + 100, 50)).toBe(2 * EPOCH + 50)
    expect(fullXid(2 * EPOCH + 100, 0xfffffff0)).toBe(EPOCH + 0xfffffff0)
  })
})

describe('laterId', () => {
  it('knows that ids wrap', () => {
    expect(laterId(0xfffffff0, 4)).toBe(4)
    expect(laterId(4, 0xfffffff0)).toBe(4)
  })
})
