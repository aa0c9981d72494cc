/** When the window takes no more: never inside the first record that is not committed. */
import { expect, test } from 'vitest'
import { WAL_PAGE_SIZE, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { WalWindow } from './wal-window.ts'

const MIB = 1024 * 1024
const FULL_BYTES = 64 * MIB

/** Ends of records, all in one window that took `bytes` in pieces. */
function build(startLsn: number, lengths: readonly number[]) {
  const builder = new WalBuilder(startLsn)
  const ends = lengths.map((length) => builder.appendNoop(length).endLsn)
  return { bytes: builder.bytes(), boundaries: [startLsn, ...ends] }
}

test.each([
  ['at a page start', 3 * WAL_SEGMENT_SIZE + 5 * WAL_PAGE_SIZE],
  ['at a segment start', 3 * WAL_SEGMENT_SIZE],
  ['8 bytes before a page', 3 * WAL_SEGMENT_SIZE - 8],
  ['in a page', 3 * WAL_SEGMENT_SIZE + 1000],
])('a record larger than the window is taken in whole, one that begins %s', (_, startLsn) => {
  const { bytes, boundaries } = build(startLsn, [70 * MIB + 1, 8 * MIB])
  const window = new WalWindow(startLsn)
  const end = boundaries[1] as number
  for (let at = 0; at < bytes.length; at += MIB) {
    window.append(bytes.subarray(at, at + MIB))
    expect(window.isFull(startLsn)).toBe(window.endLsn >= end)
  }
  // Its padding belongs to it.
  const short = new WalWindow(startLsn)
  short.append(bytes.subarray(0, end - startLsn - 1))
  expect(short.isFull(startLsn)).toBe(false)
  short.append(bytes.subarray(end - startLsn - 1, end - startLsn))
  expect(short.isFull(startLsn)).toBe(true)
})

test('records that are whole fill it, a partial one behind them changes nothing until its turn', () => {
  const startLsn = 5 * WAL_SEGMENT_SIZE
  const { bytes, boundaries } = build(startLsn, [100, 40 * MIB, 100, 80 * MIB])
  const window = new WalWindow(startLsn)
  for (let at = 0; at < bytes.length - 8; at += 777_216) {
    window.append(bytes.subarray(at, Math.min(at + 777_216, bytes.length - 8)))
    const isLarge = window.endLsn - startLsn >= FULL_BYTES
    for (const [index, commitLsn] of boundaries.slice(0, -1).entries()) {
      if (commitLsn > window.endLsn) continue
      const next = boundaries[index + 1] as number
      const isWhole = next <= window.endLsn
      // Too little of the next one is here to tell how long it is: more must come.
      const isTold = window.endLsn - commitLsn > 100
      if (isTold) expect(window.isFull(commitLsn), `${index}`).toBe(isLarge && isWhole)
    }
  }
})

test('what is no record fills it as anything does', () => {
  const window = new WalWindow(8 * WAL_SEGMENT_SIZE)
  window.append(Buffer.alloc(FULL_BYTES))
  expect(window.isFull(8 * WAL_SEGMENT_SIZE)).toBe(true)
  expect(window.isFull(0)).toBe(true)
  expect(window.isFull(window.endLsn)).toBe(true)
})
