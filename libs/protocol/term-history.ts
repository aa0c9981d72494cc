/**
 * Term histories: which leader wrote which part of the log. WAL bytes carry no term, so each log
 * keeps a list of (term, where that term's part starts), and both sides of the WAL push protocol
 * compare logs by these lists. Pure functions; every cut is "start <= position", in one place, since
 * a voter that cuts by "<" forgets a freshly elected leader that has written nothing yet.
 */
import { assert } from '../errors.ts'
import type { Lsn } from '../lsn.ts'

export interface TermEntry {
  term: number
  startLsn: Lsn
}

/** Terms rise strictly, starts never fall. Checked where a history enters the system. */
export function isTermHistory(history: readonly TermEntry[]): boolean {
  return history.every((entry, index) => {
    const before = history[index - 1]
    return before === undefined || (entry.term > before.term && entry.startLsn >= before.startLsn)
  })
}

/** The entries that say something about a log which ends at `flushLsn`. */
export function cutHistory(history: readonly TermEntry[], flushLsn: Lsn): TermEntry[] {
  return history.filter((entry) => entry.startLsn <= flushLsn)
}

/** Term of the leader that wrote the end of a log which ends at `flushLsn`; 0 for no entry. */
export function lastLogTerm(history: readonly TermEntry[], flushLsn: Lsn): number {
  return cutHistory(history, flushLsn).at(-1)?.term ?? 0
}

/**
 * The highest position up to which a log that ends at `flushLsn` certainly equals the leader's: both
 * agree on the longest common prefix of the histories, and inside the last common term up to the
 * point where either of them went on to another term. Without a common entry it is the start of
 * the leader's history.
 */
export function commonPoint(
  leader: readonly TermEntry[],
  log: readonly TermEntry[],
  flushLsn: Lsn,
): Lsn {
  const known = cutHistory(log, flushLsn)
  let last = -1
  for (let index = 0; index < known.length && index < leader.length; index += 1) {
    const mine = leader[index] as TermEntry
    const theirs = known[index] as TermEntry
    if (mine.term !== theirs.term) break
    assert(
      mine.startLsn === theirs.startLsn,
      `term ${mine.term} starts at ${mine.startLsn} in one log and at ${theirs.startLsn} in another`,
    )
    last = index
  }
  if (last < 0) {
    const first = leader[0]
    assert(first !== undefined, 'a leader has a term history')
    return first.startLsn
  }
  const leaderEnd = leader[last + 1]?.startLsn ?? Number.POSITIVE_INFINITY
  const logEnd = known[last + 1]?.startLsn ?? flushLsn
  return Math.min(leaderEnd, logEnd)
}
