/**
 * Knows what must hold (numbers as in the wal-service invariants) and throws a Violation when it does
 * not. It looks at disks and at what was said, not at what nodes believe.
 */
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { majority, memberSets } from '#libs/protocol/quorum.ts'
import type { TermEntry } from '#libs/protocol/term-history.ts'
import type { MemberConfiguration } from '#libs/protocol/wal-push.ts'

/** WAL bytes that a run may write: what the oracle and the shadows hold. */
export const LOG_BYTES = 768 * 1024

export class Violation extends Error {
  readonly invariant: string

  constructor(invariant: string, message: string) {
    super(`${invariant}: ${message}`)
    this.name = 'Violation'
    this.invariant = invariant
  }
}

/** What the oracle sees of a safekeeper: its medium. */
export interface Witness {
  readonly id: number
  readonly durableEnd: Lsn
  /** Where the WAL on it begins. */
  readonly localStartLsn: Lsn
  /** Last log term by the history that is on disk. */
  readonly durableLogTerm: number
  durableBytes(from: Lsn, to: Lsn): Buffer
  readonly durableTerm: number
  readonly durableGeneration: number
  /** What it held when its disk was lost: leaders of that time may count what it told then. */
  readonly lost: readonly { generation: number; durableEnd: Lsn; durableLogTerm: number }[]
}

export interface Leader {
  readonly name: string
  readonly term: number
  readonly termStartLsn: Lsn
  readonly history: readonly TermEntry[]
  readonly configuration: MemberConfiguration
  /** WAL that this leader itself wrote, from `baseLsn` on. */
  readonly baseLsn: Lsn
  readonly written: Buffer
}

export class Oracle {
  readonly #startLsn: Lsn
  /** The one committed log: what some proposer has called committed. */
  readonly #committed = Buffer.alloc(LOG_BYTES)
  #committedHistory: readonly TermEntry[] = []
  committedLsn: Lsn
  commits = 0
  jointCommits = 0
  readonly #committedInTerm = new Map<number, Lsn>()
  readonly #leaders = new Map<number, string>()
  readonly #termStarts = new Map<number, Lsn>()
  readonly #votes = new Map<string, string>()
  readonly #recordEnds = new Map<string, Set<Lsn>>()
  readonly #byGeneration = new Map<number, { term: number; committedLsn: Lsn }>()
  readonly #configurations = new Map<number, string>()

  constructor(startLsn: Lsn) {
    this.#startLsn = startLsn
    this.committedLsn = startLsn
    this.#termStarts.set(0, startLsn)
  }

  /** `safekeeper` names one life of its disk. */
  vote(safekeeper: string, term: number, proposer: string): void {
    const key = `${safekeeper}/${term}`
    const before = this.#votes.get(key)
    if (before !== undefined) {
      throw new Violation('I2', `safekeeper ${safekeeper} voted twice in term ${term}`)
    }
    this.#votes.set(key, proposer)
  }

  elected(leader: Leader): void {
    const { term, termStartLsn } = leader
    if (this.#leaders.has(term)) throw new Violation('I3', `term ${term} has two leaders`)
    this.#leaders.set(term, leader.name)
    const ofGeneration = this.#ofGeneration(leader.configuration.generation)
    ofGeneration.term = Math.max(ofGeneration.term, term)
    this.history(leader.history)
    // A late leader may lack what a later term committed: it can commit nothing itself then.
    for (const [earlier, committedLsn] of this.#committedInTerm) {
      if (earlier < term && termStartLsn < committedLsn) {
        throw new Violation(
          'I13',
          `term ${term} starts at ${formatLsn(termStartLsn)}, before ${formatLsn(committedLsn)}, ` +
            `which term ${earlier} has committed`,
        )
      }
    }
    const newest = this.#committedHistory.at(-1)
    if (newest !== undefined && newest.term < term) {
      const known = ranges(this.#committedHistory, this.committedLsn)
      if (ranges(leader.history, this.committedLsn) !== known) {
        throw new Violation('I13', `the log of term ${term} has other terms below the commit`)
      }
    }
  }

  history(history: readonly TermEntry[]): void {
    for (let index = 0; index < history.length; index += 1) {
      const entry = history[index] as TermEntry
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

  /** A leader wrote a whole record that ends here. */
  wroteRecord(leader: string, endLsn: Lsn): void {
    let ends = this.#recordEnds.get(leader)
    if (ends === undefined) {
      ends = new Set()
      this.#recordEnds.set(leader, ends)
    }
    ends.add(endLsn)
  }

  /** A position told in a vote or an ack is the end of a record of the term that wrote it. */
  toldFlush(safekeeper: number, flushLsn: Lsn, lastLogTerm: number): void {
    if (this.#termStarts.get(lastLogTerm) === flushLsn) return
    const leader = this.#leaders.get(lastLogTerm)
    if (leader !== undefined && this.#recordEnds.get(leader)?.has(flushLsn) === true) return
    throw new Violation(
      'I7',
      `safekeeper ${safekeeper} tells ${formatLsn(flushLsn)}, inside a record of term ${lastLogTerm}`,
    )
  }

  /** A configuration that anybody follows: one content per generation. */
  configuration(configuration: MemberConfiguration): void {
    const text = JSON.stringify(
      memberSets(configuration).map((ids) => ids.toSorted((a, b) => a - b)),
    )
    const known = this.#configurations.get(configuration.generation)
    if (known !== undefined && known !== text) {
      throw new Violation('I17', `generation ${configuration.generation} has two contents`)
    }
    this.#configurations.set(configuration.generation, text)
  }

  /**
   * A leader calls [.., lsn) committed: a majority of the disks of each member set must hold it, with
   * the same bytes and in its term, and what it wrote itself must be what it wrote.
   */
  commit(lsn: Lsn, leader: Leader, witnesses: ReadonlyMap<number, Witness>): void {
    this.commits += 1
    if (leader.configuration.newMembers !== null) this.jointCommits += 1
    if (lsn < (this.#committedInTerm.get(leader.term) ?? 0)) {
      throw new Violation('I15', `the commit position of term ${leader.term} falls`)
    }
    if (lsn < leader.termStartLsn) {
      throw new Violation('I14', `${formatLsn(lsn)} is below the start of term ${leader.term}`)
    }
    this.#committedInTerm.set(leader.term, lsn)
    const from = Math.min(this.committedLsn, lsn)
    let agreed: Buffer | null = null
    for (const ids of memberSets(leader.configuration)) {
      agreed = this.#agreed(from, lsn, leader, ids, witnesses) ?? agreed
    }
    const ofGeneration = this.#ofGeneration(leader.configuration.generation)
    ofGeneration.committedLsn = Math.max(ofGeneration.committedLsn, lsn)
    if (lsn <= this.committedLsn || agreed === null) return
    const ownFrom = Math.max(from, leader.baseLsn)
    const mine = leader.written.subarray(ownFrom - leader.baseLsn, lsn - leader.baseLsn)
    if (lsn > ownFrom && !agreed.subarray(ownFrom - from).equals(mine)) {
      throw new Violation(
        'I12',
        `the quorum has other bytes than the leader below ${formatLsn(lsn)}`,
      )
    }
    agreed.copy(this.#committed, from - this.#startLsn)
    this.committedLsn = lsn
    this.#committedHistory = leader.history
  }

  #agreed(
    from: Lsn,
    to: Lsn,
    { term, configuration }: Leader,
    ids: readonly number[],
    witnesses: ReadonlyMap<number, Witness>,
  ): Buffer | null {
    const groups: { bytes: Buffer; count: number }[] = []
    let lost = 0
    for (const id of ids) {
      const witness = witnesses.get(id)
      if (witness === undefined) continue
      const { generation } = configuration
      const before = witness.lost.filter((loss) => generation <= loss.generation)
      if (before.length > 0) {
        const told = before.some((loss) => loss.durableEnd >= to && loss.durableLogTerm >= term)
        if (told) lost += 1
        continue
      }
      if (witness.durableEnd < to || witness.durableLogTerm < term) continue
      const bytes = witness.durableBytes(from, to)
      const group = groups.find((candidate) => candidate.bytes.equals(bytes))
      if (group) group.count += 1
      else groups.push({ bytes, count: 1 })
    }
    groups.sort((a, b) => b.count - a.count)
    const best = groups[0]
    if ((best?.count ?? 0) + lost < majority(ids.length)) {
      throw new Violation(
        'I11',
        `${formatLsn(to)} is called committed in term ${term} without a quorum of ${ids.join(',')}`,
      )
    }
    return best?.bytes ?? null
  }

  /**
   * The new members of a change are alone from now on: a majority of them has everything that
   * leaders of earlier configurations committed, and a term not below that of any of those.
   */
  changedMembers(
    jointGeneration: number,
    newMembers: readonly number[],
    witnesses: ReadonlyMap<number, Witness>,
  ): void {
    let term = 0
    let committedLsn = this.#startLsn
    for (const [generation, earlier] of this.#byGeneration) {
      if (generation >= jointGeneration) continue
      term = Math.max(term, earlier.term)
      committedLsn = Math.max(committedLsn, earlier.committedLsn)
    }
    const ready = newMembers.filter((id) => {
      const witness = witnesses.get(id)
      if (witness === undefined) return false
      if (witness.lost.some((loss) => loss.generation >= jointGeneration)) return true
      const switched = witness.durableGeneration >= jointGeneration
      return switched && witness.durableTerm >= term && witness.durableEnd >= committedLsn
    })
    if (ready.length < majority(newMembers.length)) {
      throw new Violation(
        'I25',
        `members change though only ${ready.join(',') || 'none'} of ${newMembers.join(',')} has ` +
          `term ${term} and ${formatLsn(committedLsn)}`,
      )
    }
  }

  #ofGeneration(generation: number): { term: number; committedLsn: Lsn } {
    const known = this.#byGeneration.get(generation)
    if (known) return known
    const entry = { term: 0, committedLsn: this.#startLsn }
    this.#byGeneration.set(generation, entry)
    return entry
  }

  /** Every byte that a safekeeper calls committed is that of the one committed log. */
  checkCommitted(witness: Witness, commitLsn: Lsn): void {
    if (commitLsn > this.committedLsn) {
      throw new Violation('I9', `safekeeper ${witness.id} is ahead with its commit position`)
    }
    const from = Math.max(this.#startLsn, witness.localStartLsn)
    if (commitLsn <= from) return
    const expected = this.#committed.subarray(from - this.#startLsn, commitLsn - this.#startLsn)
    if (!witness.durableBytes(from, commitLsn).equals(expected)) {
      throw new Violation('I12', `safekeeper ${witness.id} holds other bytes below its commit`)
    }
  }

  /** Bytes that came out of the service for a reader of committed WAL. */
  read(reader: string, lsn: Lsn, bytes: Buffer): void {
    const end = lsn + bytes.length
    if (end > this.committedLsn) {
      throw new Violation('I18', `${reader} got WAL up to ${formatLsn(end)}, beyond the commit`)
    }
    const offset = lsn - this.#startLsn
    if (!this.#committed.subarray(offset, offset + bytes.length).equals(bytes)) {
      throw new Violation('I12', `${reader} got other bytes than were committed`)
    }
  }

  /** Logs whose ends are of one term: the shorter is a prefix of the longer. */
  checkPrefix(a: Witness, b: Witness): void {
    if (a.durableLogTerm !== b.durableLogTerm) return
    const from = Math.max(this.#startLsn, a.localStartLsn, b.localStartLsn)
    const end = Math.min(a.durableEnd, b.durableEnd)
    if (end > from && !a.durableBytes(from, end).equals(b.durableBytes(from, end))) {
      throw new Violation('I6', `logs ${a.id} and ${b.id} of term ${a.durableLogTerm} differ`)
    }
  }
}

/** Which term wrote which part of the log below `endLsn`, as text to compare. */
function ranges(history: readonly TermEntry[], endLsn: Lsn): string {
  let text = ''
  for (let index = 0; index < history.length; index += 1) {
    const { term, startLsn } = history[index] as TermEntry
    const end = Math.min(endLsn, history[index + 1]?.startLsn ?? endLsn)
    if (end > startLsn) text += `${term}@${startLsn},`
  }
  return text
}
