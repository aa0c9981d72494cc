/**
 * What a proposer remembers of its own leadership, so that it may hold the election again while its
 * Postgres lives. Pure.
 *
 * A tenure begins when a quorum has the log up to the start of the term: from then on a Postgres
 * writes, and everything in the log after that start is its own. All WAL of the tenure's terms is one
 * log, so a log that ends in one of them is a prefix of what this compute has written.
 */
/** A proposer that is deposed first lets the rival settle, for this long to twice as long. */
export const FIRST_WAIT_MS = 1_000
/** Each further time the wait doubles, up to this times the first. */
const LONGEST_WAIT = 8
/** Led for so long without a rival: the next wait is a first one again. */
const CALM_MS = 30_000

export class Tenure {
  readonly #terms = new Set<number>()
  #waitFactor = 1
  #campaignAtMs = 0

  /** Whether a Postgres may rely on this proposer. */
  get hasBegun(): boolean {
    return this.#terms.size > 0
  }

  owns(term: number): boolean {
    return this.#terms.has(term)
  }

  won(term: number): void {
    this.#terms.add(term)
  }

  /** Somebody has a higher term: a newcomer may be at it, and must win over an old compute. */
  deposed(nowMs: number, random: number): void {
    this.#campaignAtMs = nowMs + FIRST_WAIT_MS * this.#waitFactor * (1 + random)
    this.#waitFactor = Math.min(this.#waitFactor * 2, LONGEST_WAIT)
  }

  /** How long not to ask for votes yet. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#campaignAtMs - nowMs)
  }

  /** Leads at this time. */
  leads(nowMs: number): void {
    if (nowMs - this.#campaignAtMs >= CALM_MS) this.#waitFactor = 1
  }
}
