/**
 * What a safekeeper does about news of its peers, besides recovery. Pure. News is only a hint (see
 * peer-table.ts), so it never moves a position: it tells which peer is worth asking directly.
 */
import type { DiscoveryMessage } from '#libs/discovery/message.ts'
import { type Lsn, segmentNumber } from '#libs/lsn.ts'

/** Where this safekeeper is with a timeline. */
export interface OwnPositions {
  term: number
  lastLogTerm: number
  flushLsn: Lsn
  commitLsn: Lsn
  backupLsn: Lsn
  remoteConsistentLsn: Lsn
  /** A proposer streams; it tells what is committed. */
  proposerConnected: boolean
}

/**
 * True when somebody may want to hear of this timeline: it changes, WAL waits for object storage or
 * for page servers, or a peer is somewhere else.
 */
export function worthPublishing(
  own: OwnPositions,
  peers: readonly DiscoveryMessage[],
  hasObjectStore: boolean,
): boolean {
  if (own.proposerConnected || own.remoteConsistentLsn < own.commitLsn) return true
  if (hasObjectStore && segmentNumber(own.backupLsn) < segmentNumber(own.commitLsn)) return true
  return peers.some(
    (peer) =>
      peer.lastLogTerm !== own.lastLogTerm ||
      peer.flushLsn !== own.flushLsn ||
      peer.commitLsn !== own.commitLsn,
  )
}

/**
 * The peer that knows most of what is missing here, or null: a commit position that may be adopted
 * (only while no proposer tells it), or one in object storage that our page server told it.
 */
export function peerToAsk(own: OwnPositions, peers: readonly DiscoveryMessage[]): number | null {
  let best: { id: number; gainBytes: number } | null = null
  for (const peer of peers) {
    const sameLog = peer.lastLogTerm === own.lastLogTerm && own.term >= peer.term
    const commit = !own.proposerConnected && sameLog ? Math.min(peer.commitLsn, own.flushLsn) : 0
    const remote = Math.min(peer.remoteConsistentLsn, own.commitLsn)
    const gainBytes = Math.max(commit - own.commitLsn, remote - own.remoteConsistentLsn)
    if (gainBytes <= 0) continue
    if (best === null || gainBytes > best.gainBytes) best = { id: peer.nodeId, gainBytes }
  }
  return best?.id ?? null
}
