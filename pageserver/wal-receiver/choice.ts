/**
 * Which safekeeper to receive WAL from: a pure decision over what the safekeepers last told.
 *
 * Every safekeeper has the same committed bytes, so any of them would do; the one that knows of the
 * largest commit LSN is the least likely to lag. A working connection is kept unless it falls
 * behind, since switching costs a gap in the stream.
 */
import type { Lsn } from '#libs/lsn.ts'

export interface Candidate {
  id: number
  /** Its commit LSN; null when it did not answer. */
  commitLsn: Lsn | null
  /** A compute is connected to it, so WAL may come at any time. */
  computeConnected: boolean
  /** What it believes we have in object storage; it keeps WAL above that. */
  remoteConsistentLsn: Lsn
}

export interface CurrentStream {
  id: number
  receivedLsn: Lsn
  /** Time since bytes or a keepalive came. */
  silentMs: number
  /** Time since the received position last moved. */
  stalledMs: number
}

export const SILENT_LIMIT_MS = 10_000
/** Others have WAL that the current one has not delivered for this long. */
export const STALL_LIMIT_MS = 5_000
/** A candidate this far ahead is taken even if WAL still comes. */
export const LAG_LIMIT_BYTES = 1024 * 1024 * 1024

/** Members of a working quorum are rarely further apart. */
const COMMON_SLACK_BYTES = 16 * 1024 * 1024

/** The candidate that knows of the most WAL; null when none answered. */
export function furthest(candidates: readonly Candidate[]): Candidate | null {
  let best: Candidate | null = null
  for (const candidate of candidates) {
    if (candidate.commitLsn === null) continue
    if (best === null || candidate.commitLsn > (best.commitLsn ?? 0)) best = candidate
  }
  return best
}

/**
 * For a shard: the first of those that a compute is just writing to and that are about as far as the
 * furthest. A safekeeper may forget WAL once it has heard of all shards, so they should go to one.
 */
export function commonSource(candidates: readonly Candidate[]): Candidate | null {
  const best = furthest(candidates)
  if (best === null) return null
  const enough = (best.commitLsn ?? 0) - COMMON_SLACK_BYTES
  const common = candidates.find(
    ({ commitLsn, computeConnected }) =>
      computeConnected && commitLsn !== null && commitLsn >= enough,
  )
  return common ?? best
}

export interface OwnPositions {
  lastRecordLsn: Lsn
  remoteConsistentLsn: Lsn
}

/**
 * True when there is something to receive (committed WAL, or a compute that will write some) or to
 * tell: a safekeeper that does not know how far object storage is keeps WAL for nothing.
 */
export function worthConnecting(candidates: readonly Candidate[], own: OwnPositions): boolean {
  return candidates.some((one) => {
    if (one.commitLsn === null) return false
    const news = one.commitLsn > own.lastRecordLsn || one.computeConnected
    return news || one.remoteConsistentLsn < own.remoteConsistentLsn
  })
}

/** Why to leave the current stream, or null to stay. */
export function reasonToSwitch(
  current: CurrentStream,
  candidates: readonly Candidate[],
): string | null {
  if (current.silentMs > SILENT_LIMIT_MS) {
    return `safekeeper ${current.id} has been silent for ${Math.round(current.silentMs / 1000)} s`
  }
  const others = candidates.filter((candidate) => candidate.id !== current.id)
  const ahead = furthest(others)
  if (ahead === null || ahead.commitLsn === null) return null
  const lagBytes = ahead.commitLsn - current.receivedLsn
  if (lagBytes > LAG_LIMIT_BYTES) return `safekeeper ${ahead.id} is ${lagBytes} bytes ahead`
  if (lagBytes > 0 && current.stalledMs > STALL_LIMIT_MS) {
    return `safekeeper ${current.id} has delivered nothing for ${Math.round(current.stalledMs / 1000)} s while ${ahead.id} has more`
  }
  return null
}
