/**
 * Backpressure: while compaction is behind, each flush waits longer the more L0 layers there are.
 * Ingest then waits for memory, and the computes for ingest, so that writers slow down in place of
 * reads growing dearer without bound. It is never a standstill.
 */
export interface FlushDelayLimits {
  l0DelayCount: number
  l0DelayMs: number
  l0MaxDelayMs: number
}

/** How long the next flush waits. */
export function flushDelayMs(l0Count: number, limits: FlushDelayLimits): number {
  const above = l0Count - limits.l0DelayCount + 1
  return above <= 0 ? 0 : Math.min(above * limits.l0DelayMs, limits.l0MaxDelayMs)
}

/** A wait that can be cut short. */
export class FlushDelay {
  #end: (() => void) | null = null
  #waitedMs = 0

  /** Time waited so far, all waits together. */
  get waitedMs(): number {
    return this.#waitedMs
  }

  /** Resolves after so many milliseconds, or when the wait is ended early. */
  async wait(ms: number): Promise<void> {
    const startMs = performance.now()
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.#end = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    this.#end = null
    this.#waitedMs += performance.now() - startMs
  }

  /** Somebody waits for the flush, or it is to end: no more delay for this one. */
  cut(): void {
    this.#end?.()
  }
}
