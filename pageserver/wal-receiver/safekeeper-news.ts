/**
 * What safekeepers last told about one timeline by discovery, as candidates to receive WAL from.
 * Pure. Hints only: they say when to look, and the stream itself, from an address that the control
 * plane gave, is what brings WAL.
 */
import type { DiscoveryMessage } from '#libs/discovery/message.ts'
import type { Candidate } from './choice.ts'

/** An active timeline is told each second, so who was silent for this long has nothing to tell. */
const NEWS_FRESH_MS = 5_000
const MAX_SENDERS = 64

interface News {
  candidate: Candidate
  sentAtMs: number
  heardAtMs: number
}

export class SafekeeperNews {
  readonly #news = new Map<number, News>()

  /** Takes a message; one that is older than what is known and fresh changes nothing. */
  hear(message: DiscoveryMessage, nowMs: number): void {
    const { nodeId: id, commitLsn, computeConnected, remoteConsistentLsn, sentAtMs } = message
    const before = this.#news.get(id)
    const fresh = before !== undefined && nowMs - before.heardAtMs <= NEWS_FRESH_MS
    if (fresh && sentAtMs < before.sentAtMs) return
    const candidate = { id, commitLsn, computeConnected, remoteConsistentLsn }
    this.#news.delete(id)
    this.#news.set(id, { candidate, sentAtMs, heardAtMs: nowMs })
    if (this.#news.size <= MAX_SENDERS) return
    const oldest = this.#news.keys().next().value
    if (oldest !== undefined) this.#news.delete(oldest)
  }

  /** One candidate for each of these safekeepers; without position where nothing fresh is known. */
  candidates(ids: readonly number[], nowMs: number): Candidate[] {
    return ids.map((id) => {
      const news = this.#news.get(id)
      return news !== undefined && nowMs - news.heardAtMs <= NEWS_FRESH_MS
        ? news.candidate
        : { id, commitLsn: null, computeConnected: false, remoteConsistentLsn: 0 }
    })
  }
}
