/**
 * Whether our generation of a tenant is still the newest one: asked before anything is done that a
 * newer attachment must not suffer from, which is deleting objects and letting WAL go.
 */
import { callControl } from '#libs/api/control-client.ts'
import { assert } from '#libs/errors.ts'
import type { TenantId } from '#libs/ids.ts'

export interface Generations {
  /**
   * True when no higher generation of the tenant was given out at a moment between call and answer.
   * Throws when nobody can tell, which says nothing about the generation: try again later.
   */
  validate(tenantId: TenantId, generation: number): Promise<boolean>
}

/** For processes that have no control plane: nobody else is there. */
export const ONLY_ONE: Generations = { validate: async () => true }

const TIMEOUT_MS = 5_000
/** Tenants in one request. */
const BATCH = 1000

interface Question {
  tenantId: TenantId
  generation: number
  resolve: (valid: boolean) => void
  reject: (error: unknown) => void
}

/** Asks the control plane. Questions of one moment share a request. */
export class ControlGenerations implements Generations {
  readonly #controlPlaneUrl: string
  readonly #pageserverId: number
  #waiting: Question[] = []

  constructor(controlPlaneUrl: string, pageserverId: number) {
    this.#controlPlaneUrl = controlPlaneUrl
    this.#pageserverId = pageserverId
  }

  validate(tenantId: TenantId, generation: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ tenantId, generation, resolve, reject })
      if (this.#waiting.length === 1) setImmediate(() => this.#askAll())
    })
  }

  #askAll(): void {
    const questions = this.#waiting
    this.#waiting = []
    for (let at = 0; at < questions.length; at += BATCH) {
      const batch = questions.slice(at, at + BATCH)
      this.#ask(batch).catch((error: unknown) => {
        for (const { reject } of batch) reject(error)
      })
    }
  }

  async #ask(batch: readonly Question[]): Promise<void> {
    const keyOf = (tenantId: string, generation: number) => `${tenantId}/${generation}`
    const asked = new Map(
      batch.map(({ tenantId, generation }) => [
        keyOf(tenantId, generation),
        { tenantId, generation },
      ]),
    )
    const answer = await callControl(this.#controlPlaneUrl, 'validateGenerations', {
      params: { id: this.#pageserverId },
      body: { tenants: [...asked.values()] },
      timeoutMs: TIMEOUT_MS,
    })
    assert(Array.isArray(answer.valid), 'the control plane answers with a list of generations')
    const valid = new Set(answer.valid.map((one) => keyOf(one.tenantId, one.generation)))
    for (const { tenantId, generation, resolve } of batch) {
      resolve(valid.has(keyOf(tenantId, generation)))
    }
  }
}
