/**
 * Up to where safekeepers may forget a timeline's WAL: what a durable manifest covers, once the
 * control plane has said after its writing that our generation is the newest.
 *
 * Without the second half a page server that was replaced could let go WAL that the newer
 * attachment has not seen, since that one never reads what the old one still writes. That holds
 * for a manifest that was just loaded, too.
 */
import type { TenantId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Generations } from './generations.ts'

export interface ConfirmationOptions {
  tenantId: TenantId
  generation: number
  generations: Generations
  /** A higher generation was given out; told once. */
  onStale: () => void
}

export class Confirmation {
  readonly #options: ConfirmationOptions
  #durableLsn: Lsn
  #confirmedLsn: Lsn = 0
  #stale = false
  #running: Promise<void> | null = null

  /** `durableLsn`: what the loaded manifest covers. Nothing is confirmed before `run`. */
  constructor(durableLsn: Lsn, options: ConfirmationOptions) {
    this.#durableLsn = durableLsn
    this.#options = options
  }

  /** In a durable manifest. */
  get durableLsn(): Lsn {
    return this.#durableLsn
  }

  /** The part of it that counts for everybody. 0 = none yet. Never goes back. */
  get confirmedLsn(): Lsn {
    return this.#confirmedLsn
  }

  /** True: a newer attachment exists; nothing will be confirmed any more. */
  get isStale(): boolean {
    return this.#stale
  }

  /** A manifest that covers history up to here has become durable. */
  reached(lsn: Lsn): void {
    this.#durableLsn = Math.max(this.#durableLsn, lsn)
  }

  /**
   * Asks whether what is durable now counts. Resolves when there is an answer or none can be had,
   * in which case it is to be called again later. Never rejects.
   */
  run(): Promise<void> {
    this.#running ??= this.#ask().finally(() => {
      this.#running = null
    })
    return this.#running
  }

  async #ask(): Promise<void> {
    const { tenantId, generation, generations, onStale } = this.#options
    while (!this.#stale && this.#confirmedLsn < this.#durableLsn) {
      const lsn = this.#durableLsn
      try {
        if (await generations.validate(tenantId, generation)) {
          this.#confirmedLsn = Math.max(this.#confirmedLsn, lsn)
          continue
        }
      } catch {
        // Nobody can tell for now.
        return
      }
      this.#stale = true
      onStale()
    }
  }
}
