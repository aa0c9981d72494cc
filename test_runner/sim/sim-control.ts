/**
 * The control plane in virtual time: the record of a timeline's members in a store with
 * compare-and-swap whose answers may get lost, and the real migration machine, driven over the
 * simulated network by a process that may die between any two of its requests.
 */
import type { Member, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import {
  beginChange,
  type Membership,
  sameMembership,
} from '../../control/membership/membership.ts'
import {
  Migration,
  type MigrationEffect,
  type MigrationEvent,
} from '../../control/membership/migration.ts'
import type { Coverage } from './coverage.ts'
import type { FaultKind, Faults } from './faults.ts'
import { Host } from './host.ts'
import type { Mutation } from './mutations.ts'
import type { Network } from './network.ts'
import type { Oracle } from './oracle.ts'
import type { Prng } from './prng.ts'
import type { SimSafekeeper } from './sim-safekeeper.ts'
import type { TimelineCopy } from './timeline-copy.ts'

const TICK_MS = 200
const TIMEOUT_MS = 3000
const CONTROL_HOST = 900

export interface SimControlOptions {
  members: readonly number[]
  addresses: ReadonlyMap<number, Member>
  safekeepers: ReadonlyMap<number, SimSafekeeper>
  network: Network
  random: Prng
  faults: Faults
  oracle: Oracle
  coverage: Coverage
  mutation: Mutation | null
  /** Per request: lost on the way there, or its answer on the way back. */
  lossChance: number
  crashChance: number
  /** Holds an election without a compute, if none lives; calls back when that is over. */
  elect: (configuration: MemberConfiguration, over: () => void) => void
}

export class SimControl {
  readonly host: Host
  readonly #options: SimControlOptions
  readonly #loss: FaultKind
  readonly #crash: FaultKind
  /** The record as the store has it. */
  membership: Membership
  #driver: Migration

  constructor(options: SimControlOptions) {
    this.#options = options
    const { scheduler } = options.network
    this.host = new Host(CONTROL_HOST, 'control', scheduler, { offsetMs: 0, rate: 1 })
    this.#loss = options.faults.kind('lost-request')
    this.#crash = options.faults.kind('control-crash')
    this.membership = {
      generation: 1,
      members: options.members,
      newMembers: null,
      rebuild: [],
      pending: [],
      announced: true,
      deletions: [],
    }
    this.#driver = this.#newDriver()
    this.#tick()
  }

  get configuration(): MemberConfiguration {
    const addresses = (ids: readonly number[]) =>
      ids.map((id) => this.#options.addresses.get(id) as Member)
    const { generation, members, newMembers } = this.membership
    return {
      generation,
      members: addresses(members),
      newMembers: newMembers === null ? null : addresses(newMembers),
    }
  }

  get settled(): boolean {
    return this.membership.newMembers === null && this.#driver.phase === 'done'
  }

  /** Begins a change of the members, if one may begin now. */
  change(target: readonly number[], rebuild: readonly number[] = []): void {
    let next: Membership
    try {
      next = beginChange(this.membership, target, rebuild)
    } catch {
      // Not now: one is under way, or a node still has to delete an older copy.
      return
    }
    this.#options.coverage.count(rebuild.length > 0 ? 'rebuilds begun' : 'changes begun')
    this.#trace('begins a change to', target.length, next.generation)
    this.#store(next)
    this.#feed({ kind: 'record', membership: this.membership })
  }

  abort(): void {
    this.#feed({ kind: 'abort' })
  }

  /** The process ends and another one goes on from the record. */
  restart(): void {
    this.host.die()
    this.#driver = this.#newDriver()
    this.#tick()
  }

  #newDriver(): Migration {
    const { addresses } = this.#options
    return new Migration({ membership: this.membership, addresses })
  }

  #store(next: Membership): void {
    this.membership = next
    this.#options.oracle.configuration(this.configuration)
  }

  #tick(): void {
    this.host.after(TICK_MS, () => {
      if (!this.settled) this.#feed({ kind: 'tick', nowMs: this.host.nowMs() })
      this.#tick()
    })
  }

  #feed(event: MigrationEvent): void {
    const { life } = this.host
    for (const effect of this.#driver.step(event)) {
      if (this.#crash.fires(this.#options.crashChance)) {
        this.#options.coverage.count(`control plane dies in ${this.#driver.phase}`)
        this.restart()
        return
      }
      this.#request(effect)
      if (this.host.life !== life) return
    }
  }

  /** Sends a request; exactly one answer comes back, at last a failure by the time limit. */
  #request(effect: MigrationEffect): void {
    const { lossChance } = this.#options
    let open = true
    const { life } = this.host
    const answer = (event: MigrationEvent): void => {
      if (!open || this.host.life !== life || this.#loss.fires(lossChance)) return
      open = false
      this.#feed(event)
    }
    if (!this.#loss.fires(lossChance)) this.#perform(effect, answer)
    this.host.after(TIMEOUT_MS, () => {
      if (!open) return
      open = false
      this.#feed(failure(effect))
    })
  }

  #perform(effect: MigrationEffect, answer: (event: MigrationEvent) => void): void {
    const { network, elect } = this.#options
    const delayMs = network.delayMs()
    switch (effect.kind) {
      case 'swap':
        this.host.after(delayMs, () => {
          this.#swap(effect.expected, effect.next)
          const { membership } = this
          this.host.after(delayMs, () => answer({ kind: 'record', membership }))
        })
        break
      case 'tell':
        this.host.after(delayMs, () => answer({ kind: 'told' }))
        break
      case 'elect':
        elect(effect.configuration, () => this.host.run(() => answer({ kind: 'elected' })))
        break
      case 'query':
      case 'configure':
      case 'bump-term':
      case 'pull':
      case 'delete':
        this.#ask(effect.node, effect, answer)
    }
  }

  #swap(expected: Membership, next: Membership): void {
    const { oracle, coverage, safekeepers } = this.#options
    if (!sameMembership(this.membership, expected)) {
      coverage.count('swaps lost to another')
      return
    }
    if (expected.newMembers !== null && next.newMembers === null) {
      const finished = next.members !== expected.members
      coverage.count(finished ? 'changes finished' : 'changes aborted')
      if (finished && !expected.newMembers.some((id) => expected.members.includes(id))) {
        coverage.count('full replacements')
      }
      this.#trace(finished ? 'finishes a change' : 'aborts a change', next.generation)
      if (finished) {
        oracle.changedMembers(expected.generation, expected.newMembers, safekeepers)
      }
    }
    this.#store(next)
  }

  #ask(
    node: number,
    effect: Exclude<MigrationEffect, { kind: 'swap' | 'tell' | 'elect' }>,
    answer: (event: MigrationEvent) => void,
  ): void {
    const { network, safekeepers, mutation } = this.#options
    const safekeeper = safekeepers.get(node) as SimSafekeeper
    const there = network.delayMs() + network.blockedMs(this.host.id, node)
    const reply = (event: MigrationEvent): void => {
      const back = network.delayMs() + network.blockedMs(node, this.host.id)
      network.scheduler.after(back, () => this.host.run(() => answer(event)))
    }
    const fail = (reason: string, absent = false) => reply({ kind: 'failed', node, absent, reason })
    const report = (): void => {
      const positions = safekeeper.positions()
      if (positions === null) fail('it is down')
      else if (mutation === 'skip-term-bump') {
        reply({ kind: 'report', node, report: { ...positions, term: 1e9 } })
      } else reply({ kind: 'report', node, report: positions })
    }
    const answered = (refusal: string | null) => (refusal === null ? report() : fail(refusal))
    network.scheduler.after(there, () =>
      safekeeper.host.run(() => {
        if (!safekeeper.reachable) return
        if (effect.kind === 'delete') {
          safekeeper.delete(effect.generation, () => reply({ kind: 'deleted', node }))
        } else if (effect.kind === 'pull') this.#pull(safekeeper, effect, answered)
        else if (safekeeper.absent) fail('no such timeline', true)
        else if (safekeeper.acceptor === null) fail('it is starting')
        else if (effect.kind === 'query') report()
        else if (effect.kind === 'configure') {
          const { configuration } = effect
          safekeeper.request((request) => ({ kind: 'configure', request, configuration }), answered)
        } else if (mutation === 'skip-term-bump') report()
        else {
          const { term } = effect
          this.#options.coverage.count('term bumps of a change')
          safekeeper.request((request) => ({ kind: 'bump-term', request, term }), answered)
        }
      }),
    )
  }

  #pull(
    target: SimSafekeeper,
    { donors, configuration, minimum }: Extract<MigrationEffect, { kind: 'pull' }>,
    answered: (refusal: string | null) => void,
  ): void {
    const { safekeepers, random, coverage } = this.#options
    if (!target.absent) {
      target.request((request) => ({ kind: 'configure', request, configuration }), answered)
      return
    }
    const install = (donor: SimSafekeeper, copy: TimelineCopy): void => {
      target.host.after(random.next() * 500, () => {
        if (!donor.stillAt(copy)) answered('the donor followed another leader meanwhile')
        else if (!target.install(copy)) answered('it was deleted here')
        else {
          coverage.count('copies made')
          answered(null)
        }
      })
    }
    const ask = (index: number): void => {
      const donor = safekeepers.get(donors[index]?.id ?? 0)
      if (donor === undefined) {
        answered('no donor can give it')
        return
      }
      // Its tail may be in object storage only.
      donor.occupy((leave) => {
        const copy = leave && donor.copyFor(configuration, minimum)
        leave?.()
        if (copy === null) ask(index + 1)
        else install(donor, copy)
      })
    }
    ask(0)
  }

  #trace(what: string, a = 0, b = 0): void {
    this.#options.network.scheduler.trace(this.host.name, what, a, b)
  }
}

function failure(effect: MigrationEffect): MigrationEvent {
  const reason = 'no answer in time'
  if (effect.kind === 'swap') return { kind: 'swap-failed' }
  if (effect.kind === 'tell') return { kind: 'not-told', reason }
  if (effect.kind === 'elect') return { kind: 'elected' }
  return { kind: 'failed', node: effect.node, absent: false, reason }
}
