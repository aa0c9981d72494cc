/** One safekeeper of the model: the production acceptor as a table of transitions, filled on demand. */
import type { Lsn } from '#libs/lsn.ts'
import { Acceptor, type AcceptorEffect, type AcceptorEvent } from '../../safekeeper/acceptor.ts'
import type { ControlState } from '../../safekeeper/control-state.ts'
import { copyOf, fingerprint, Interner } from './snapshot.ts'

/** Scratch of the record scanner: without meaning between two records, and the model has no halves. */
const SCRATCH = new Set([
  '$pageHeader',
  '$header',
  '$seen',
  '$length',
  '$crc',
  '$recordStart',
  '$paddingEnd',
  // A copy of what the rest says.
  '$invariants',
])

export interface AcceptorStep {
  readonly next: number
  readonly effects: readonly AcceptorEffect[]
}

export class AcceptorNodes {
  readonly #states = new Interner<Acceptor>()
  readonly #steps = new Map<string, AcceptorStep>()

  get size(): number {
    return this.#states.size
  }

  get transitions(): number {
    return this.#steps.size
  }

  boot(nodeId: number, control: ControlState, flushLsn: Lsn): number {
    const incarnation = String(nodeId).padStart(32, '0')
    return this.#id(new Acceptor({ nodeId, incarnation, control, flushLsn }))
  }

  state(id: number): Acceptor {
    return this.#states.value(id)
  }

  /** `eventKey` is equal for equal events. */
  step(id: number, eventKey: string, event: AcceptorEvent): AcceptorStep {
    const key = `${id}|${eventKey}`
    let step = this.#steps.get(key)
    if (step === undefined) {
      const acceptor = copyOf(this.#states.value(id))
      const effects = acceptor.step(event)
      step = { next: this.#id(acceptor), effects }
      this.#steps.set(key, step)
    }
    return step
  }

  #id(acceptor: Acceptor): number {
    return this.#states.id(fingerprint(acceptor, SCRATCH), acceptor)
  }
}
