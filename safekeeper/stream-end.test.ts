import { describe, expect, it } from 'vitest'
import { QUIET_MS, StreamEnd, type StreamFacts } from './stream-end.ts'

const QUIET: StreamFacts = {
  nowMs: 0,
  computeConnected: false,
  commitLsn: 100,
  sentLsn: 100,
  remoteConsistentLsn: 100,
}

/** Whether the stream ends when all was quiet but for what `change` says in the middle. */
function endsAfter(change: Partial<StreamFacts>): boolean {
  const end = new StreamEnd()
  expect(end.isDue(QUIET)).toBe(false)
  end.isDue({ ...QUIET, nowMs: QUIET_MS / 2, ...change })
  return end.isDue({ ...QUIET, nowMs: QUIET_MS })
}

describe('StreamEnd', () => {
  it('is due after a while without a compute and with everything in object storage', () => {
    expect(endsAfter({})).toBe(true)
  })

  it('waits anew after a compute, WAL or missing feedback', () => {
    expect(endsAfter({ computeConnected: true })).toBe(false)
    expect(endsAfter({ commitLsn: 101 })).toBe(false)
    expect(endsAfter({ commitLsn: 101, remoteConsistentLsn: 101 })).toBe(false)
    expect(endsAfter({ remoteConsistentLsn: 99 })).toBe(false)
    expect(endsAfter({ remoteConsistentLsn: null })).toBe(false)
  })
})
