/** What bounds the WAL on a disk: limits, the removal bound, turns of writing. */
import { describe, expect, it } from 'vitest'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { type DiskLimitSettings, type DiskUse, limitRefusal } from './disk-limits.ts'
import { localSegments, removalBound } from './local-segments.ts'
import { WriteSlots } from './write-slots.ts'

const NONE: DiskLimitSettings = { maxTimelineWalBytes: null, maxWalBytes: null, minFreeBytes: 0 }
const USE: DiskUse = {
  timelineBytes: 3 * WAL_SEGMENT_SIZE,
  totalBytes: 9 * WAL_SEGMENT_SIZE,
  freeBytes: 1_000,
  full: false,
}

describe('limits of disk space', () => {
  it('refuse what goes beyond, by name, and nothing that fits exactly', () => {
    const refusal = (settings: Partial<DiskLimitSettings>, use: Partial<DiskUse> = {}) =>
      limitRefusal({ ...NONE, ...settings }, { ...USE, ...use }, 1)
    expect(refusal({})).toBeNull()
    expect(refusal({ maxTimelineWalBytes: 4 * WAL_SEGMENT_SIZE })).toBeNull()
    expect(refusal({ maxTimelineWalBytes: 4 * WAL_SEGMENT_SIZE - 1 })).toMatch(
      /48 MiB.*max_timeline_wal_bytes/,
    )
    expect(refusal({ maxWalBytes: 10 * WAL_SEGMENT_SIZE })).toBeNull()
    expect(refusal({ maxWalBytes: 9 * WAL_SEGMENT_SIZE })).toMatch(/144 MiB.*max_wal_bytes/)
    expect(refusal({ minFreeBytes: 1_000 })).toBeNull()
    expect(refusal({ minFreeBytes: 1_001 })).toContain('min_free_bytes')
    expect(refusal({ minFreeBytes: 1_001 }, { freeBytes: null })).toBeNull()
    expect(refusal({}, { full: true })).toContain('is full')
  })
})

describe('removal', () => {
  it('stops at whatever is lowest', () => {
    const stored = { remoteConsistentLsn: 500, backupLsn: 600, commitLsn: 700 }
    expect(removalBound(900, stored, 800, [])).toBe(500)
    expect(removalBound(400, stored, 800, [])).toBe(400)
    expect(removalBound(900, { ...stored, remoteConsistentLsn: 999 }, 800, [])).toBe(600)
    expect(removalBound(900, stored, 300, [])).toBe(300)
    expect(removalBound(900, stored, 800, [{ lsn: 450 }, { lsn: 200 }])).toBe(200)
  })

  it('lists segments, the last of them full only when all of it is durable', () => {
    const range = { first: 3, newest: 4 }
    const full = (durableLsn: number) => localSegments(range, durableLsn).map((file) => file.full)
    expect(full(5 * WAL_SEGMENT_SIZE - 1)).toEqual([true, false])
    expect(full(5 * WAL_SEGMENT_SIZE)).toEqual([true, true])
    expect(localSegments(null, 0)).toEqual([])
  })
})

describe('turns of writing', () => {
  it('go to whoever waits longest, never to more than there are slots', () => {
    const slots = new WriteSlots(3)
    const order: number[] = []
    const writing = new Set<number>()
    let most = 0
    const waiting = Array.from({ length: 3_000 }, (_, index) => index)
    for (const id of waiting) {
      slots.acquire(() => {
        order.push(id)
        writing.add(id)
        most = Math.max(most, writing.size)
      })
    }
    expect(order).toEqual([0, 1, 2])
    while (writing.size > 0) {
      const [first] = writing
      writing.delete(first as number)
      slots.release()
    }
    expect(order).toEqual(waiting)
    expect(most).toBe(3)
    expect(slots.waiting).toBe(0)
  })
})
