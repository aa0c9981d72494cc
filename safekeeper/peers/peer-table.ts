/**
 * What the other safekeepers of one timeline last told by discovery. Pure; times are those of the
 * own monotonic clock at which a message came in, since a sender's clock proves nothing.
 *
 * A hint, never a fact: messages may be stale, repeated, swapped or forged. So they decide whom to
 * ask, whom to wait for and who copies WAL to object storage, and never what is committed or what
 * may be deleted.
 */
import type { DiscoveryMessage } from '#libs/discovery/message.ts'

/** Who was heard within this time counts as alive. */
export const PEER_ALIVE_MS = 5_000
/** As many as a configuration may have members; a forger cannot make the table grow beyond. */
const MAX_PEERS = 64

interface Heard {
  message: DiscoveryMessage
  atMs: number
}

export class PeerTable {
  readonly #ownId: number
  readonly #heard = new Map<number, Heard>()
  #echoAtMs: number | null = null

  constructor(ownId: number) {
    this.#ownId = ownId
  }

  /** Takes a message of this timeline. An older one of the same sender changes nothing. */
  hear(message: DiscoveryMessage, nowMs: number): void {
    if (message.nodeId === this.#ownId) {
      this.#echoAtMs = nowMs
      return
    }
    const before = this.#heard.get(message.nodeId)
    // Only while the newer one is fresh: a sender whose clock went back is heard again soon.
    const outdated = before !== undefined && message.sentAtMs < before.message.sentAtMs
    if (outdated && nowMs - before.atMs <= PEER_ALIVE_MS) return
    this.#heard.delete(message.nodeId)
    this.#heard.set(message.nodeId, { message, atMs: nowMs })
    if (this.#heard.size <= MAX_PEERS) return
    const oldest = this.#heard.keys().next().value
    if (oldest !== undefined) this.#heard.delete(oldest)
  }

  /** Peers that are alive, by node id; never this safekeeper itself. */
  fresh(nowMs: number): DiscoveryMessage[] {
    const alive: DiscoveryMessage[] = []
    for (const [id, { message, atMs }] of this.#heard) {
      if (nowMs - atMs <= PEER_ALIVE_MS) alive.push(message)
      else this.#heard.delete(id)
    }
    return alive.sort((a, b) => a.nodeId - b.nodeId)
  }

  /** Own messages come back: discovery works. */
  echoed(nowMs: number): boolean {
    return this.#echoAtMs !== null && nowMs - this.#echoAtMs <= PEER_ALIVE_MS
  }
}
