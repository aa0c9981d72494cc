/**
 * Discovery that nobody should trust: messages are dropped, doubled, late, out of order, and forged.
 * A forger says anything of anybody, so whoever acts on it must lose nothing but time.
 */
import type { DiscoveryMessage } from '#libs/discovery/message.ts'
import type { Coverage } from './coverage.ts'
import type { FaultKind, Faults } from './faults.ts'
import type { Prng } from './prng.ts'
import type { Scheduler } from './scheduler.ts'

export interface DiscoveryOptions {
  scheduler: Scheduler
  random: Prng
  faults: Faults
  coverage: Coverage
  dropChance: number
  forgeChance: number
}

const MAX_DELAY_MS = 300
const STALE_MS = 10_000

export class SimDiscovery {
  readonly #options: DiscoveryOptions
  readonly #listeners: ((message: DiscoveryMessage) => void)[] = []
  readonly #drop: FaultKind
  readonly #double: FaultKind
  readonly #forge: FaultKind

  constructor(options: DiscoveryOptions) {
    this.#options = options
    this.#drop = options.faults.kind('discovery-drop')
    this.#double = options.faults.kind('discovery-double')
    this.#forge = options.faults.kind('discovery-lie')
  }

  subscribe(listener: (message: DiscoveryMessage) => void): void {
    this.#listeners.push(listener)
  }

  publish(message: DiscoveryMessage): void {
    const { scheduler, random, dropChance, forgeChance } = this.#options
    for (const listener of this.#listeners) {
      if (this.#drop.fires(dropChance)) continue
      scheduler.after(random.next() * MAX_DELAY_MS, () => listener(message))
      if (this.#double.fires(dropChance)) {
        scheduler.after(this.#double.random.next() * STALE_MS, () => listener(message))
      }
      if (!this.#forge.fires(forgeChance)) continue
      const lie = this.#lie(message)
      scheduler.after(random.next() * MAX_DELAY_MS, () => listener(lie))
    }
  }

  #lie(message: DiscoveryMessage): DiscoveryMessage {
    const { random } = this.#forge
    this.#options.coverage.count('lies of discovery')
    const lsn = () => random.pick([0, message.flushLsn + random.int(-50_000, 50_000), 2 ** 50])
    return {
      ...message,
      nodeId: random.pick([message.nodeId, random.int(1, 9)]),
      generation: random.pick([message.generation, random.int(0, 1000)]),
      term: random.pick([message.term, random.int(0, 1000)]),
      lastLogTerm: random.pick([message.lastLogTerm, random.int(0, 1000)]),
      flushLsn: lsn(),
      commitLsn: lsn(),
      backupLsn: lsn(),
      remoteConsistentLsn: lsn(),
      peerHorizonLsn: lsn(),
      localStartLsn: lsn(),
      sentAtMs: random.pick([message.sentAtMs, message.sentAtMs + 100_000]),
    }
  }
}
