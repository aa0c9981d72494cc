/**
 * Whether a pageserver that has started serves its tenants yet, and what it waits for otherwise: for
 * people, in its log, at `/healthz`, and in what computes are told that ask for pages meanwhile.
 *
 *   starting ─► waiting for the control plane ─► loading its tenants ─► ready
 *
 * What local files tell of tenants is not enough to read them: another pageserver may have them by
 * now, under a higher generation, and be further.
 */

type Phase =
  | { kind: 'starting' }
  | { kind: 'waiting'; url: string; problem: string; sinceMs: number }
  | { kind: 'loading'; total: number; done: number }
  | { kind: 'ready' }

export class Readiness {
  readonly #nowMs: () => number
  #phase: Phase = { kind: 'starting' }

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs
  }

  /** The control plane has not said yet which tenants are ours, and under which generations. */
  waiting(url: string, problem: string): void {
    const { kind } = this.#phase
    const sinceMs = kind === 'waiting' ? this.#phase.sinceMs : this.#nowMs()
    this.#phase = { kind: 'waiting', url, problem, sinceMs }
  }

  /** So many tenants are ours; each that is opened from object storage is told by `loaded`. */
  loading(total: number): void {
    this.#phase = { kind: 'loading', total, done: 0 }
  }

  loaded(): void {
    if (this.#phase.kind === 'loading') this.#phase.done += 1
  }

  ready(): void {
    this.#phase = { kind: 'ready' }
  }

  /** As what follows "the pageserver is"; null when it is ready. */
  get reason(): string | null {
    switch (this.#phase.kind) {
      case 'starting':
        return 'starting'
      case 'waiting': {
        const { url, problem, sinceMs } = this.#phase
        const seconds = Math.round((this.#nowMs() - sinceMs) / 1000)
        return (
          `waiting for the control plane at ${url} since ${seconds} s (${problem}); ` +
          "tenants are read once it has confirmed that they are this pageserver's"
        )
      }
      case 'loading':
        return `loading its tenants, ${this.#phase.done} of ${this.#phase.total} so far`
      case 'ready':
        return null
    }
  }
}
