import { expect, test } from 'vitest'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import type { DiscoveryMessage } from '#libs/discovery/message.ts'
import { discoveryMessage } from '../../test_runner/fixtures/discovery-message.ts'
import { PEER_ALIVE_MS, PeerTable } from './peer-table.ts'

const key = { tenantId: newTenantId(), timelineId: newTimelineId() }

function message(nodeId: number, flushLsn: number, sentAtMs = 1): DiscoveryMessage {
  return discoveryMessage(key, nodeId, flushLsn, { sentAtMs })
}

test('a peer is alive as long as it was heard lately, and this safekeeper is none of them', () => {
  const table = new PeerTable(1)
  expect(table.echoed(0)).toBe(false)
  for (const id of [3, 1, 2]) table.hear(message(id, 100), 0)
  expect(table.fresh(PEER_ALIVE_MS).map((peer) => peer.nodeId)).toEqual([2, 3])
  expect(table.echoed(PEER_ALIVE_MS)).toBe(true)
  expect(table.echoed(PEER_ALIVE_MS + 1)).toBe(false)
  expect(table.fresh(PEER_ALIVE_MS + 1)).toEqual([])
})

test('late and repeated messages do not put a peer back', () => {
  const table = new PeerTable(1)
  table.hear(message(2, 200, 20), 0)
  table.hear(message(2, 100, 10), 1)
  table.hear(message(2, 200, 20), 2)
  expect(table.fresh(3)[0]?.flushLsn).toBe(200)
})

test('a forged time from the future silences a peer for a while, not for ever', () => {
  const table = new PeerTable(1)
  table.hear(message(2, 999, 2 ** 50), 0)
  table.hear(message(2, 100, 10), 1000)
  expect(table.fresh(1000)[0]?.flushLsn).toBe(999)
  table.hear(message(2, 108, 11), PEER_ALIVE_MS + 1)
  expect(table.fresh(PEER_ALIVE_MS + 1)[0]?.flushLsn).toBe(108)
})

test('a flood of invented peers takes no more than its share of memory', () => {
  const table = new PeerTable(1)
  for (let id = 2; id < 10_000; id += 1) table.hear(message(id, id), 0)
  expect(table.fresh(0)).toHaveLength(64)
})
