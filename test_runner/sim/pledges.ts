/**
 * What one safekeeper has told others: terms, generations, votes, positions. None of it may be taken
 * back, whatever happens to its process, and all of it must be on its medium when it is told.
 */
import type { Lsn } from '#libs/lsn.ts'
import { lastLogTerm } from '#libs/protocol/term-history.ts'
import type { AcceptorMessage } from '#libs/protocol/wal-push.ts'
import type { ControlState } from '../../safekeeper/control-state.ts'
import { type Oracle, Violation } from './oracle.ts'
import { AckedWal, type Residence } from './residence.ts'

/** What is on its disk, and in its memory. */
export interface Medium {
  readonly durableControl: ControlState
  readonly durableEnd: Lsn
  /** Where the WAL on the disk begins. */
  readonly localStartLsn: Lsn
  read(from: Lsn, to: Lsn): Buffer
  readDurable(from: Lsn, to: Lsn): Buffer
}

/** Who tells something, and to whom. */
export interface Conversation {
  /** How many disks it has lost before. */
  readonly incarnation: number
  /** Who is at the other end, for the oracle. */
  readonly peer: string
}

export class Pledges {
  readonly #id: number
  readonly #oracle: Oracle
  /** Highest term ever told, and the generation: neither may fall, over all lives. */
  #term = 0
  #generation = 0
  readonly #acked: AckedWal

  constructor(id: number, startLsn: Lsn, oracle: Oracle) {
    this.#id = id
    this.#oracle = oracle
    this.#acked = new AckedWal(startLsn)
  }

  /** A leader cuts the log there: what was acknowledged above holds no more. */
  cut(lsn: Lsn): void {
    this.#acked.cut(lsn)
  }

  /** Its disk is gone, and all that it told with it: it is no member any more. */
  forget(): void {
    this.#acked.restart()
    this.#term = 0
    this.#generation = 0
  }

  /** It has taken a copy whose WAL begins at `lsn`. */
  copied(lsn: Lsn): void {
    this.#acked.restart(lsn)
  }

  /** What a process found when it started; of an evicted timeline `checkElsewhere` tells more. */
  checkBoot(control: ControlState, flushLsn: Lsn, medium: Medium): void {
    const from = Math.max(this.#acked.fromLsn, medium.localStartLsn)
    if (control.eviction === null && !this.#isOn(medium, from)) {
      throw new Violation('I8', `safekeeper ${this.#id} lost what it had acknowledged`)
    }
    if (flushLsn < this.#acked.endLsn) {
      throw new Violation('I8', `safekeeper ${this.#id} has a shorter log than it acknowledged`)
    }
    if (control.term < this.#term) {
      throw new Violation('I1', `safekeeper ${this.#id} forgot that it told term ${this.#term}`)
    }
  }

  /** I8 of a timeline that is not on its disk: what it acknowledged is in object storage. */
  checkElsewhere(residence: Residence | null): void {
    const { fromLsn, endLsn } = this.#acked
    const archived = residence?.archived(fromLsn, endLsn)
    if (archived?.equals(this.#acked.bytes(fromLsn)) === true) return
    throw new Violation('I8', `safekeeper ${this.#id} is evicted, and what it acknowledged is lost`)
  }

  /** I8 of a timeline that is on its disk again. */
  checkReturn(medium: Medium): void {
    if (this.#isOn(medium, medium.localStartLsn)) return
    throw new Violation('I8', `safekeeper ${this.#id} comes back with other bytes than it had`)
  }

  /** Before a message leaves: it may tell only what is stored, and nothing less than before. */
  tell(message: AcceptorMessage, medium: Medium, { incarnation, peer }: Conversation): void {
    const id = this.#id
    const durable = medium.durableControl
    if (message.term > durable.term) {
      throw new Violation('I1', `safekeeper ${id} tells term ${message.term} before it is stored`)
    }
    if (message.term < this.#term) {
      // A queued message of before may be of a lower term; nothing may be promised by it.
      if (message.kind === 'vote' && message.given) {
        throw new Violation('I1', `safekeeper ${id} votes below a term that it told`)
      }
    } else this.#term = message.term
    const { generation } =
      message.kind === 'greeting' ? message.configuration : { generation: message.generation }
    if (generation > durable.configuration.generation || generation < this.#generation) {
      throw new Violation('I17', `safekeeper ${id} speaks for generation ${generation}`)
    }
    this.#generation = generation
    if (message.kind === 'vote') {
      if (message.given) this.#oracle.vote(`${id}.${incarnation}`, message.term, peer)
      this.#tellVote(message, medium)
    }
    if (message.kind === 'ack' && message.flushLsn > 0) this.#tellFlush(message.flushLsn, medium)
  }

  #tellVote(vote: Extract<AcceptorMessage, { kind: 'vote' }>, medium: Medium): void {
    if (vote.history.some((entry) => entry.startLsn > vote.flushLsn)) {
      throw new Violation('I5', `safekeeper ${this.#id} tells a history beyond its log`)
    }
    if (vote.flushLsn < this.#acked.endLsn) {
      throw new Violation('I7', `safekeeper ${this.#id} takes back what it acknowledged`)
    }
    this.#tellFlush(vote.flushLsn, medium)
  }

  /** A position is told: everything below is on the medium, from now on until a leader cuts it. */
  #tellFlush(lsn: Lsn, medium: Medium): void {
    if (medium.durableEnd < lsn) {
      throw new Violation('I8', `safekeeper ${this.#id} tells ${lsn} before it is durable`)
    }
    const term = lastLogTerm(medium.durableControl.history, lsn)
    this.#oracle.toldFlush(this.#id, lsn, term)
    // An ack may have waited behind a later one; it is true all the same.
    if (lsn <= this.#acked.endLsn) return
    const readable = medium.durableControl.eviction?.flushLsn ?? medium.localStartLsn
    const from = Math.max(this.#acked.endLsn, readable)
    const bytes = medium.readDurable(from, lsn)
    if (!bytes.equals(medium.read(from, lsn))) {
      throw new Violation('I8', `safekeeper ${this.#id} tells ${lsn}, which is not on its medium`)
    }
    this.#acked.add(lsn, bytes)
  }

  #isOn(medium: Medium, from: Lsn): boolean {
    const { endLsn } = this.#acked
    if (endLsn <= from) return true
    return medium.readDurable(from, endLsn).equals(this.#acked.bytes(from))
  }
}
