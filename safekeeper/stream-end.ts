/**
 * When a safekeeper ends the stream to a page server: no compute writes, and the page server has all
 * that is committed in object storage. Otherwise each idle timeline would cost a connection for
 * ever; the page server comes back when it hears of a compute or of more WAL. Pure.
 *
 * It takes a while of quiet, since a compute that restarts is back within seconds. Standbys and tools
 * give no such feedback and are left alone.
 */
import type { Lsn } from '#libs/lsn.ts'

/** Quiet for so long ends the stream. */
export const QUIET_MS = 10_000

export interface StreamFacts {
  nowMs: number
  computeConnected: boolean
  commitLsn: Lsn
  sentLsn: Lsn
  /** What the page server at the other end has in object storage; null when it has told nothing. */
  remoteConsistentLsn: Lsn | null
}

export class StreamEnd {
  #quietSinceMs: number | null = null

  /** Call now and then; true when the stream has served its purpose. */
  isDue(facts: StreamFacts): boolean {
    const { nowMs, commitLsn, remoteConsistentLsn } = facts
    const done = remoteConsistentLsn !== null && remoteConsistentLsn >= commitLsn
    if (facts.computeConnected || !done || facts.sentLsn < commitLsn) {
      this.#quietSinceMs = null
      return false
    }
    this.#quietSinceMs ??= nowMs
    return nowMs - this.#quietSinceMs >= QUIET_MS
  }
}
