/** What can befall the nodes of a run, by the shares that were drawn for it. */
import type { Cluster } from './cluster.ts'
import type { Prng } from './prng.ts'

export class Mishaps {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /**
   * One kind of mishap, by the shares of this run; each draws from its own stream. Runs of musical
   * chairs have their own crashes, but for the times in which they rest.
   */
  happen(resting: boolean): void {
    const cluster = this.#cluster
    const { faults } = cluster
    const { pauseShare, partitionShare, jumpShare, wipeShare, fullShare, chairs } = cluster.options
    const all = cluster.members()
    const alive = cluster.living()
    const pause = faults.kind('pause')
    if (pause.fires(pauseShare)) {
      const nodes = [...all, ...alive]
      pause.random.pick(nodes).host.pause(pause.random.next() * pause.random.pick([500, 15_000]))
    }
    const partition = faults.kind('partition')
    if (partition.fires(partitionShare)) this.#partition(partition.random)
    const jump = faults.kind('clock-jump')
    if (jump.fires(jumpShare) && alive.length > 0) {
      jump.random.pick(alive).host.clock.offsetMs += jump.random.pick([-3_600_000, 3_600_000, 5000])
    }
    const wipe = faults.kind('wipe')
    if (wipe.fires(wipeShare)) this.#wipe(wipe.random)
    const full = faults.kind('disk-full')
    if (full.fires(fullShare)) this.#fillDisk(full.random)
    const restart = faults.kind('restart-pageserver')
    if (cluster.reader !== null && restart.fires(0.1)) cluster.reader.restart()
    this.rot()
    this.#administer()
    if (chairs && !resting) return
    const crash = faults.kind('crash')
    if (crash.fires(0.4)) crash.random.pick(all).crash(crash.random.chance(0.6))
    const kill = faults.kind('kill-compute')
    if (alive.length > 0 && kill.fires(0.3)) kill.random.pick(alive).crash()
  }

  /** The stored end of one of several copies of the log is not what it was. */
  rot(): void {
    const { faults, offloads, options } = this.#cluster
    const rot = faults.kind('rot')
    if (offloads.length === 0 || this.#cluster.members().length < 3) return
    if (rot.fires(options.rotShare)) rot.random.pick(offloads).rot(rot.random)
  }

  /** What operators and the control plane do. */
  #administer(): void {
    const { faults, options, control, coverage } = this.#cluster
    const { changeShare, abortShare, bumpShare } = options
    const change = faults.kind('change-members')
    if (change.fires(changeShare)) this.#changeMembers(change.random)
    const abort = faults.kind('abort-change')
    if (abort.fires(abortShare)) control.abort()
    const bump = faults.kind('bump-term')
    if (!bump.fires(bumpShare)) return
    const target = bump.random.pick(this.#cluster.members())
    const term = target.durableTerm + bump.random.int(1, 3)
    coverage.count('term bumps by an operator')
    target.request(
      (request) => ({ kind: 'bump-term', request, term }),
      () => {},
    )
  }

  #changeMembers(random: Prng): void {
    const { control, safekeepers } = this.#cluster
    const { members } = control.membership
    const lost = members.filter((id) => safekeepers.get(id)?.absent === true)
    if (lost.length > 0) {
      control.change(members, lost)
      return
    }
    const all = this.#cluster.shuffled(random)
    const target = random.chance(0.3)
      ? all.filter((one) => !members.includes(one.id))
      : all.slice(0, random.int(1, Math.min(6, all.length)))
    control.change(target.map((one) => one.id))
  }

  /** Cuts a random part of the nodes off from the rest, in one direction or both. */
  #partition(random: Prng): void {
    const { safekeepers, coverage, network } = this.#cluster
    const nodes = [...safekeepers.keys(), ...this.#cluster.living().map((one) => one.host.id)]
    const side = new Set(nodes.filter(() => random.chance(0.5)))
    const durationMs = random.next() * random.pick([500, 4000, 15_000])
    const bothWays = random.chance(0.5)
    coverage.count(bothWays ? 'partitions' : 'asymmetric partitions')
    for (const a of nodes) {
      for (const b of nodes) {
        if (!side.has(a) || side.has(b)) continue
        network.block(a, b, durationMs)
        if (bothWays) network.block(b, a, durationMs)
      }
    }
  }

  #fillDisk(random: Prng): void {
    const { safekeepers, scheduler } = this.#cluster
    const safekeeper = random.pick([...safekeepers.values()])
    safekeeper.diskFull = true
    scheduler.after(random.next() * 4000, () => {
      safekeeper.diskFull = false
    })
  }

  /** A disk is lost: one at a time, while nothing else changes and all others have theirs. */
  #wipe(random: Prng): void {
    const { newMembers, announced, members } = this.#cluster.control.membership
    if (newMembers !== null || !announced || members.length < 3) return
    const nodes = this.#cluster.members()
    if (nodes.some((one) => one.absent)) return
    random.pick(nodes).wipe()
  }
}
