/**
 * A token that is exchanged for a new one when half of its time is over, so that whoever gives them
 * out may be away for the other half. Counts time on its own clock only.
 */
import { errorMessage, ZenithError } from '../errors.ts'
import type { Logger } from '../log.ts'

export interface IssuedToken {
  token: string
  /** How long it is valid from now on, in milliseconds. */
  expiresInMs: number
}

interface Held {
  token: string
  renewAtMs: number
  endsAtMs: number
}

/** After a renewal that failed. */
const RETRY_MS = 5_000

export class RenewingToken {
  readonly #fetch: (current: string | null) => Promise<IssuedToken>
  readonly #log: Logger
  #held: Held | null = null
  #fetching: Promise<string> | null = null
  #notBeforeMs = Number.NEGATIVE_INFINITY

  /** `fetch` gets the token held so far. */
  constructor(options: {
    fetch: (current: string | null) => Promise<IssuedToken>
    log: Logger
    initial?: IssuedToken
  }) {
    this.#fetch = options.fetch
    this.#log = options.log
    if (options.initial !== undefined) this.#hold(options.initial)
  }

  /** A token that is valid now. Throws `unavailable` when there is none and none can be had. */
  async get(): Promise<string> {
    const nowMs = performance.now()
    const held = this.#held
    if (held === null || nowMs >= held.endsAtMs) return this.#renew()
    if (nowMs >= held.renewAtMs && nowMs >= this.#notBeforeMs) {
      // Nobody waits for it: the one at hand is good.
      this.#renew().catch((error: unknown) => {
        this.#notBeforeMs = performance.now() + RETRY_MS
        this.#log.warn({ reason: errorMessage(error) }, 'the token could not be renewed yet')
      })
    }
    return held.token
  }

  #renew(): Promise<string> {
    this.#fetching ??= this.#fetch(this.#held?.token ?? null)
      .then(
        (issued) => this.#hold(issued),
        (error: unknown) => {
          const reason = errorMessage(error)
          throw new ZenithError('unavailable', `no token to show to safekeepers: ${reason}`, {
            cause: error,
          })
        },
      )
      .finally(() => {
        this.#fetching = null
      })
    return this.#fetching
  }

  #hold({ token, expiresInMs }: IssuedToken): string {
    const nowMs = performance.now()
    this.#held = { token, renewAtMs: nowMs + expiresInMs / 2, endsAtMs: nowMs + expiresInMs }
    return token
  }
}
