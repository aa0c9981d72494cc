/**
 * Knows what must hold (numbers as in wal-service invariants) and throws a Violation when it does
 * not. It looks at disks, not at what nodes believe.
 */
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { TermEntry } from '#libs/protocol/term-history.ts'
import { DISK_BYTES } from './disk.ts'

export class Violation extends Error {
  readonly invariant: string

  constructor(invariant: string, message: string) {
    super(`${invariant}: ${message}`)
    this.name = 'Violation'
    this.invariant = invariant
  }
}

/** What the oracle sees of a safekeeper. */
export interface Witness {
  readonly id: number
  readonly durableEnd: Lsn
  durableBytes(from: Lsn, to: Lsn): Buffer
}

export class Oracle {
  readonly #startLsn: Lsn
  readonly #memberCount: number
  /** The one committed log: what some proposer has called committed. */
  readonly #committed = Buffer.alloc(DISK_BYTES)
  committedLsn: Lsn
  commits = 0
  readonly #committedInTerm = new Map<number, Lsn>()
  readonly #leaders = new Map<number, string>()
  readonly #termStarts = new Map<number, Lsn>()
  readonly #votes = new Map<string, string>()

  constructor(startLsn: Lsn, memberCount: number) {
    this.#startLsn = startLsn
    this.#memberCount = memberCount
    this.committedLsn = startLsn
  }

  vote(safekeeper: number, term: number, proposerId: string): void {
    const key = `${safekeeper}/${term}`
    if (this.#votes.has(key)) {
      throw new Violation('I2', `safekeeper ${safekeeper} voted twice in term ${term}`)
    }
    this.#votes.set(key, proposerId)
  }

  elected(proposerId: string, term: number, startLsn: Lsn): void {
    const other = this.#leaders.get(term)
    if (other !== undefined) throw new Violation('I3', `term ${term} has two leaders`)
    this.#leaders.set(term, proposerId)
    // A late leader may lack what a later term committed: it can commit nothing itself then.
    for (const [earlier, committedLsn] of this.#committedInTerm) {
      if (earlier < term && startLsn < committedLsn) {
        throw new Violation(
          'I13',
          `term ${term} starts at ${formatLsn(startLsn)}, before ${formatLsn(committedLsn)}, ` +
            `which term ${earlier} has committed`,
        )
      }
    }
  }

  history(history: readonly TermEntry[]): void {
    for (const [index, entry] of history.entries()) {
      const before = history[index - 1]
      if (before && (before.term >= entry.term || before.startLsn > entry.startLsn)) {
        throw new Violation('I4', `a history falls at term ${entry.term}`)
      }
      const known = this.#termStarts.get(entry.term)
      if (known !== undefined && known !== entry.startLsn) {
        throw new Violation('I4', `term ${entry.term} starts at two positions`)
      }
      this.#termStarts.set(entry.term, entry.startLsn)
    }
  }

  /**
   * A proposer calls [.., lsn) committed: a majority of disks must hold it, with the same bytes, and
   * those of its own term must be its own.
   */
  commit(
    lsn: Lsn,
    own: { term: number; startLsn: Lsn; bytes: Buffer },
    witnesses: readonly Witness[],
  ): void {
    this.commits += 1
    this.#committedInTerm.set(own.term, lsn)
    if (lsn <= this.committedLsn) return
    const from = this.committedLsn
    const groups: { bytes: Buffer; count: number }[] = []
    for (const witness of witnesses) {
      if (witness.durableEnd < lsn) continue
      const bytes = witness.durableBytes(from, lsn)
      const group = groups.find((candidate) => candidate.bytes.equals(bytes))
      if (group) group.count += 1
      else groups.push({ bytes, count: 1 })
    }
    groups.sort((a, b) => b.count - a.count)
    const best = groups[0]
    const needed = Math.floor(this.#memberCount / 2) + 1
    if (best === undefined || best.count < needed) {
      throw new Violation('I11', `${formatLsn(lsn)} is called committed without a quorum`)
    }
    const ownFrom = Math.max(from, own.startLsn)
    const mine = own.bytes.subarray(ownFrom - own.startLsn, lsn - own.startLsn)
    if (lsn > ownFrom && !best.bytes.subarray(ownFrom - from).equals(mine)) {
      throw new Violation(
        'I12',
        `the quorum has other bytes than the leader below ${formatLsn(lsn)}`,
      )
    }
    best.bytes.copy(this.#committed, from - this.#startLsn)
    this.committedLsn = lsn
  }

  /** Every byte that a safekeeper calls committed is that of the one committed log. */
  checkCommitted(witness: Witness, commitLsn: Lsn): void {
    if (commitLsn > this.committedLsn) {
      throw new Violation('I9', `safekeeper ${witness.id} is ahead with its commit position`)
    }
    const expected = this.#committed.subarray(0, commitLsn - this.#startLsn)
    if (!witness.durableBytes(this.#startLsn, commitLsn).equals(expected)) {
      throw new Violation('I12', `safekeeper ${witness.id} holds other bytes below its commit`)
    }
  }

  /** Logs whose ends are of one term: the shorter is a prefix of the longer. */
  checkPrefix(
    a: Witness & { lastLogTerm: number; flushLsn: Lsn },
    b: Witness & { lastLogTerm: number; flushLsn: Lsn },
  ): void {
    if (a.lastLogTerm !== b.lastLogTerm) return
    const end = Math.min(a.flushLsn, b.flushLsn, a.durableEnd, b.durableEnd)
    if (!a.durableBytes(this.#startLsn, end).equals(b.durableBytes(this.#startLsn, end))) {
      throw new Violation('I6', `logs ${a.id} and ${b.id} of term ${a.lastLogTerm} differ`)
    }
  }
}
