import { expect, test } from 'vitest'
import type { DiscoveryMessage } from '#libs/discovery/message.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { type OwnPositions, peerToAsk, worthPublishing } from './peer-news.ts'

const SEGMENT = WAL_SEGMENT_SIZE
const own: OwnPositions = {
  term: 5,
  lastLogTerm: 4,
  flushLsn: 3 * SEGMENT + 500,
  commitLsn: 3 * SEGMENT,
  backupLsn: 3 * SEGMENT,
  remoteConsistentLsn: 3 * SEGMENT,
  proposerConnected: false,
}

function peer(change: Partial<DiscoveryMessage> = {}): DiscoveryMessage {
  return {
    tenantId: newTenantId(),
    timelineId: newTimelineId(),
    nodeId: 2,
    generation: 1,
    term: own.term,
    lastLogTerm: own.lastLogTerm,
    flushLsn: own.flushLsn,
    commitLsn: own.commitLsn,
    backupLsn: own.backupLsn,
    remoteConsistentLsn: own.remoteConsistentLsn,
    peerHorizonLsn: SEGMENT,
    localStartLsn: SEGMENT,
    standbyHorizonLsn: null,
    host: 'h',
    pgPort: 1,
    httpPort: 1,
    computeConnected: false,
    sentAtMs: 1,
    ...change,
  }
}

test('a timeline is told while it changes, while WAL waits, and while peers differ', () => {
  expect(worthPublishing(own, [peer()], true)).toBe(false)
  expect(worthPublishing({ ...own, proposerConnected: true }, [], false)).toBe(true)
  expect(worthPublishing({ ...own, remoteConsistentLsn: 8 }, [], false)).toBe(true)
  const pending = { ...own, backupLsn: 2 * SEGMENT }
  expect(worthPublishing(pending, [], true)).toBe(true)
  expect(worthPublishing(pending, [], false)).toBe(false)
  expect(worthPublishing({ ...own, backupLsn: 3 * SEGMENT + 8 }, [], true)).toBe(false)
  for (const change of [{ flushLsn: 8 }, { lastLogTerm: 3 }, { commitLsn: 8 }]) {
    expect(worthPublishing(own, [peer(), peer(change)], true)).toBe(true)
  }
})

test('a peer is asked for a commit position only if it may be adopted here', () => {
  const ahead = { commitLsn: own.flushLsn }
  expect(peerToAsk(own, [peer(ahead)])).toBe(2)
  expect(peerToAsk(own, [peer({ ...ahead, lastLogTerm: 3 })])).toBeNull()
  expect(peerToAsk(own, [peer({ ...ahead, lastLogTerm: 5 })])).toBeNull()
  // Its term is above ours: a leader between the two terms could still cut our log.
  expect(peerToAsk(own, [peer({ ...ahead, term: 6 })])).toBeNull()
  expect(peerToAsk(own, [peer({ ...ahead, term: 4 })])).toBe(2)
  // While a proposer streams, it tells.
  expect(peerToAsk({ ...own, proposerConnected: true }, [peer(ahead)])).toBeNull()
})

test('nobody is asked for what would gain nothing, and who knows most comes first', () => {
  expect(peerToAsk(own, [])).toBeNull()
  expect(peerToAsk(own, [peer()])).toBeNull()
  const done = { ...own, commitLsn: own.flushLsn, remoteConsistentLsn: own.flushLsn }
  expect(peerToAsk(done, [peer({ commitLsn: 2 ** 50, remoteConsistentLsn: 2 ** 50 })])).toBeNull()
  const some = peer({ nodeId: 3, commitLsn: own.commitLsn + 100 })
  const more = peer({ nodeId: 4, commitLsn: own.commitLsn + 200 })
  expect(peerToAsk(own, [some, more])).toBe(4)
})

test('positions in object storage come from peers even while a proposer streams', () => {
  const busy = { ...own, proposerConnected: true, remoteConsistentLsn: SEGMENT }
  expect(peerToAsk(busy, [peer({ remoteConsistentLsn: 2 * SEGMENT })])).toBe(2)
  expect(peerToAsk(busy, [peer({ remoteConsistentLsn: SEGMENT })])).toBeNull()
})
