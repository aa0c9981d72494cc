/** The stormy phase of a run: nodes come, compete, crash, and are cut off, while the oracle watches. */
import type { Cluster } from './cluster.ts'
import { Mishaps } from './mishaps.ts'
import { Violation } from './oracle.ts'
import type { Prng } from './prng.ts'

const STORM_MS = 12_000
/** Steps of the scheduler after which a storm must be over. */
export const MAX_STEPS = 400_000
const CHECK_EVERY = 500

export class Storm {
  readonly #cluster: Cluster
  readonly #mishaps: Mishaps
  readonly #restRandom: Prng
  /** Nobody is to write for a while. */
  #resting = false

  constructor(cluster: Cluster) {
    this.#cluster = cluster
    this.#mishaps = new Mishaps(cluster)
    this.#restRandom = cluster.root.fork('rests')
  }

  run(): void {
    const cluster = this.#cluster
    const { options, scheduler } = cluster
    cluster.startProposer()
    if (options.chairs) this.#musicalChairs()
    this.#disturb()
    if (options.evictAfterMs !== null && options.offload) this.#rest()
    let nextCheck = CHECK_EVERY
    while (scheduler.step(STORM_MS)) {
      if (scheduler.steps > MAX_STEPS) throw new Violation('liveness', 'too many steps')
      if (scheduler.steps < nextCheck) continue
      nextCheck += CHECK_EVERY
      cluster.check()
    }
    cluster.check()
  }

  /** Every so often something happens to a node. */
  #disturb(): void {
    const cluster = this.#cluster
    const { random, options } = cluster
    cluster.scheduler.after(random.next() * options.calmMs, () => {
      if (cluster.healed) return
      this.#mishaps.happen(this.#resting)
      const alive = cluster.living().length
      if (!this.#resting && alive < 2 && random.chance(alive === 0 ? 0.8 : options.rivalChance)) {
        cluster.startProposer()
      }
      this.#disturb()
    })
  }

  /** Now and then nobody writes for some seconds: timelines become idle and leave the disks. */
  #rest(): void {
    const cluster = this.#cluster
    const { scheduler } = cluster
    const random = this.#restRandom
    scheduler.after(500 + random.next() * 2000, () => {
      if (cluster.healed) return
      this.#resting = true
      cluster.coverage.count('quiet times')
      for (const one of cluster.safekeepers.values()) cluster.hold(one, false)
      // First every member hears what was committed last.
      for (const proposer of cluster.living()) proposer.rest()
      scheduler.after(500 + random.next() * 1000, () => {
        if (!cluster.healed) for (const proposer of cluster.living()) proposer.crash()
      })
      scheduler.after(2500 + random.next() * 4000, () => {
        this.#resting = false
        if (cluster.healed) return
        this.#mishaps.rot()
        cluster.startProposer()
        this.#rest()
      })
    })
  }

  /**
   * Rounds that make logs diverge: a random majority is up, one leader writes, then all but one of
   * them go away while it still writes to the last, then the leader goes too.
   */
  #musicalChairs(): void {
    const cluster = this.#cluster
    const { random, scheduler, options } = cluster
    if (cluster.healed) return
    if (this.#resting) {
      scheduler.after(options.roundMs, () => this.#musicalChairs())
      return
    }
    const all = cluster.members()
    const absent = random.int(0, Math.ceil(all.length / 2) - 1)
    const shuffled = cluster.shuffled(random).filter((one) => all.includes(one))
    for (const [index, one] of shuffled.entries()) cluster.hold(one, index < absent)
    const roundMs = 40 + random.next() * options.roundMs
    // Often in the middle of the election, between a vote and what follows from it.
    const leaveMs = random.chance(0.5) ? random.next() * 30 : roundMs * random.next()
    const survivor = shuffled.at(-1)
    scheduler.after(leaveMs, () => {
      if (cluster.healed || this.#resting) return
      for (const one of all) if (one !== survivor) cluster.hold(one, true)
    })
    scheduler.after(roundMs, () => {
      if (cluster.healed) return
      if (!this.#resting) {
        if (!random.chance(0.1)) for (const proposer of cluster.proposers) proposer.crash()
        cluster.startProposer()
      }
      this.#musicalChairs()
    })
  }
}
