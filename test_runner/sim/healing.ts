/**
 * The end of a run: nothing bad happens any more. A random majority comes back first and must do
 * without the rest, which comes and goes beside it; then all are there, and all logs become equal.
 */
import { majority } from '#libs/protocol/quorum.ts'
import type { Cluster } from './cluster.ts'
import { Violation } from './oracle.ts'
import type { SimProposer } from './sim-proposer.ts'
import type { SimSafekeeper } from './sim-safekeeper.ts'
import { MAX_STEPS } from './storm.ts'

const HEALED_MS = 60_000
/** How long the core must do beside nodes that come and go. */
const FLAPPING_MS = 1_200

export class Healing {
  readonly #cluster: Cluster
  /** Nobody comes and goes any more. */
  #calm = false

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  run(): void {
    const cluster = this.#cluster
    const { faults, objects, oracle, network, control, options, scheduler } = cluster
    const safekeepers = [...cluster.safekeepers.values()]
    cluster.healed = true
    faults.active = false
    objects.repair()
    const before = oracle.committedLsn
    for (const proposer of cluster.proposers) proposer.crash()
    network.heal()
    const core = this.#core()
    for (const one of safekeepers) {
      one.host.resume()
      one.diskFull = false
      cluster.hold(one, !core.includes(one))
    }
    control.restart()
    for (const one of core) one.boot()
    this.#runFor(options.maxDownMs + 200, () => core.every((one) => one.reachable))
    let proposer = cluster.startProposer()
    const relieve = (): SimProposer => {
      // A compute of before the healing may still have been under way to a vote.
      if (proposer.fenced) proposer = cluster.startProposer()
      return proposer
    }
    this.#flap(safekeepers.filter((one) => !core.includes(one)))
    const flappedMs = scheduler.nowMs + FLAPPING_MS
    this.#runFor(HEALED_MS, () => {
      return this.#settled(relieve(), before) && scheduler.nowMs >= flappedMs
    })
    this.#calm = true
    for (const one of safekeepers) cluster.hold(one, false)
    this.#runFor(HEALED_MS, () => {
      if (!control.settled || !this.#settled(relieve(), before)) return false
      if (cluster.reader !== null && cluster.reader.received < before) return false
      const goal = proposer.core.termStartLsn
      return cluster.members().every((one) => {
        const isLost = one.absent && !control.membership.pending.includes(one.id)
        return isLost || one.absent || one.commitLsn >= goal
      })
    })
    cluster.check()
  }

  /** All but the core go on coming and going, several times each second. */
  #flap(others: readonly SimSafekeeper[]): void {
    const cluster = this.#cluster
    const { random } = cluster
    if (others.length === 0) return
    cluster.scheduler.after(100 + random.next() * 400, () => {
      if (this.#calm) return
      const one = random.pick(others)
      cluster.hold(one, !cluster.isHeld(one))
      cluster.coverage.count('comings and goings beside the core')
      this.#flap(others)
    })
  }

  /**
   * A random majority of each member set, of those who have their disks; new members without a copy
   * all come, since too few of the others may be there for a majority.
   */
  #core(): SimSafekeeper[] {
    const { members, newMembers } = this.#cluster.control.membership
    const core = new Set<SimSafekeeper>()
    const shuffled = this.#cluster.shuffled(this.#cluster.random)
    for (const ids of [members, newMembers ?? []]) {
      const set = shuffled.filter((one) => ids.includes(one.id))
      const present = set.filter((one) => !one.absent)
      const wanted = ids.length === 0 ? 0 : majority(ids.length)
      for (const one of present.length >= wanted ? present.slice(0, wanted) : set) core.add(one)
    }
    return [...core]
  }

  #runFor(durationMs: number, done: () => boolean): void {
    const { scheduler } = this.#cluster
    const deadline = scheduler.nowMs + durationMs
    while (!done()) {
      if (!scheduler.step(deadline)) {
        const state = this.#cluster.describe()
        throw new Violation('liveness', `no progress after the healing: ${state}`)
      }
      if (scheduler.steps > 2 * MAX_STEPS) throw new Violation('liveness', 'too many steps')
    }
  }

  /** The new compute has committed its first record, or all that it may write. */
  #settled(proposer: SimProposer, before: number): boolean {
    if (!proposer.ready || this.#cluster.oracle.committedLsn < before) return false
    // One that was elected again after it had written all it may has nothing more to commit.
    if (proposer.full) return proposer.core.commitLsn === proposer.endLsn
    return proposer.core.commitLsn >= proposer.core.termStartLsn + 128
  }
}
