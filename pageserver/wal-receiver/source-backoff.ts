/** Which sources failed lately, so that another one is tried first. Pure. */

const FIRST_MS = 500
const LAST_MS = 15_000

export class SourceBackoff {
  readonly #failed = new Map<number, { againAtMs: number; waitMs: number }>()

  /** It broke before it delivered anything. Each time in a row doubles the wait. */
  failed(id: number, nowMs: number): void {
    const before = this.#failed.get(id)
    const waitMs = before === undefined ? FIRST_MS : Math.min(before.waitMs * 2, LAST_MS)
    this.#failed.set(id, { againAtMs: nowMs + waitMs, waitMs })
  }

  worked(id: number): void {
    this.#failed.delete(id)
  }

  /** Those to choose from: who did not just fail; everybody, when all did. */
  eligible<T extends { id: number; commitLsn: number | null }>(
    candidates: readonly T[],
    nowMs: number,
  ): readonly T[] {
    const rested = candidates.filter(
      ({ id, commitLsn }) =>
        commitLsn !== null && (this.#failed.get(id)?.againAtMs ?? nowMs) <= nowMs,
    )
    return rested.length > 0 ? rested : candidates
  }
}
