import { describe, expect, test } from 'vitest'
import {
  type Candidate,
  commonSource,
  furthest,
  LAG_LIMIT_BYTES,
  reasonToSwitch,
  SILENT_LIMIT_MS,
  STALL_LIMIT_MS,
  worthConnecting,
} from './choice.ts'

const one = (id: number, commitLsn: number | null, computeConnected = false): Candidate => ({
  id,
  commitLsn,
  computeConnected,
  remoteConsistentLsn: 900,
})
const own = { lastRecordLsn: 1000, remoteConsistentLsn: 900 }
const current = { id: 1, receivedLsn: 1000, silentMs: 0, stalledMs: 0 }

describe('choice of a safekeeper', () => {
  test('the furthest that answered wins; the first among equals', () => {
    expect(furthest([one(1, 10), one(2, 30), one(3, null), one(4, 30)])?.id).toBe(2)
    expect(furthest([one(1, null)])).toBeNull()
    expect(furthest([])).toBeNull()
  })

  test('shards go to one and the same while its compute writes and it is about as far', () => {
    const mib = 1024 * 1024
    const far = 100 * mib
    expect(commonSource([one(1, far - mib, true), one(2, far, true), one(3, far, true)])?.id).toBe(
      1,
    )
    expect(commonSource([one(1, far - 17 * mib, true), one(2, far - 1, true)])?.id).toBe(2)
    expect(commonSource([one(1, far - 1), one(2, far)])?.id).toBe(2)
    expect(commonSource([one(1, null, true), one(2, far), one(3, far - 1, true)])?.id).toBe(3)
    expect(commonSource([one(1, null)])).toBeNull()
  })

  test('a stream is worth it for WAL that is there or a compute that writes', () => {
    expect(worthConnecting([one(1, 1000)], own)).toBe(false)
    expect(worthConnecting([one(1, 1001)], own)).toBe(true)
    expect(worthConnecting([one(1, 1000, true)], own)).toBe(true)
    expect(worthConnecting([one(1, null, true)], own)).toBe(false)
  })

  test('a stream is worth it to tell what is in object storage', () => {
    const further = { ...own, remoteConsistentLsn: 901 }
    expect(worthConnecting([one(1, 1000)], further)).toBe(true)
    expect(worthConnecting([one(1, null)], further)).toBe(false)
  })

  test('a working stream is kept while others are about as far', () => {
    expect(reasonToSwitch(current, [one(1, 5000), one(2, 5000)])).toBeNull()
    expect(reasonToSwitch({ ...current, stalledMs: 60_000 }, [one(2, 1000)])).toBeNull()
  })

  test('silence, a stall and a large lag end it', () => {
    expect(reasonToSwitch({ ...current, silentMs: SILENT_LIMIT_MS + 1 }, [])).toContain('silent')
    const stalled = { ...current, stalledMs: STALL_LIMIT_MS + 1 }
    expect(reasonToSwitch(stalled, [one(2, 1008)])).toContain('2 has more')
    const far = 1001 + LAG_LIMIT_BYTES
    expect(reasonToSwitch(current, [one(2, far)])).toContain('bytes ahead')
  })
})
