/**
 * One run from one seed: safekeepers, computes that come, compete and crash, a network that cuts and
 * clogs, disks that lose what was not synced. First a stormy phase in which the oracle watches
 * safety; then a random majority is healed and one new compute must get on with it alone (liveness);
 * then everybody is, all logs must become equal, and everything ever committed must still be there.
 */
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { majority } from '#libs/protocol/quorum.ts'
import { segmentNumber } from '#libs/lsn.ts'
import type { Member, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import { newControlState } from '../../safekeeper/control-state.ts'
import { allMembers } from '../../control/membership/membership.ts'
import { segmentObject } from '../../safekeeper/offload/wal-objects.ts'
import { segmentStart } from '../../safekeeper/store/segment-plan.ts'
import { Coverage } from './coverage.ts'
import { SimDiscovery } from './discovery.ts'
import { Faults } from './faults.ts'
import type { Mutation } from './mutations.ts'
import { Network } from './network.ts'
import { drawOptions, type SimulationOptions } from './options.ts'
import { LOG_BYTES, Oracle, Violation } from './oracle.ts'
import { Prng } from './prng.ts'
import { Scheduler } from './scheduler.ts'
import { SimObjectStore } from './object-store.ts'
import { SimControl } from './sim-control.ts'
import { SimOffload } from './sim-offload.ts'
import { SimPeers } from './sim-peers.ts'
import { SimProposer } from './sim-proposer.ts'
import { SimReader } from './sim-reader.ts'
import { SimSafekeeper } from './sim-safekeeper.ts'

const TENANT = parseTenantId('5'.repeat(32))
const TIMELINE = parseTimelineId('7'.repeat(32))
const SYSTEM_ID = 7_123_456_789_012_345_678n
const STORM_MS = 12_000
const HEALED_MS = 60_000
/** How long the core must do beside nodes that come and go. */
const FLAPPING_MS = 1_200
const MAX_STEPS = 400_000
const CHECK_EVERY = 500
const FIRST_PROPOSER = 100
const READER = 800

export interface SimulationResult {
  seed: number
  violation: Violation | null
  traceHash: string
  recent: readonly string[]
  options: SimulationOptions
  coverage: Coverage
  /** Faults that happened, by name. */
  faults: readonly string[]
  steps: number
}

export interface SimulationSetup {
  seed: number
  mutation?: Mutation | null
  /** Replace drawn options, to aim at one kind of trouble. */
  overrides?: Partial<SimulationOptions>
  /** No other faults than these happen. */
  only?: ReadonlySet<string> | null
}

export class Simulation {
  readonly #seed: number
  readonly #scheduler = new Scheduler()
  readonly #random: Prng
  readonly #clockRandom: Prng
  readonly #faults: Faults
  readonly #network: Network
  readonly #oracle: Oracle
  readonly #coverage = new Coverage()
  readonly #safekeepers = new Map<number, SimSafekeeper>()
  readonly #options: SimulationOptions
  readonly #mutation: Mutation | null
  readonly #startLsn: number
  readonly #control: SimControl
  readonly #configurations: MemberConfiguration[] = []
  readonly #proposers: SimProposer[] = []
  readonly #held = new Set<SimSafekeeper>()
  readonly #objects: SimObjectStore
  readonly #offloads: SimOffload[] = []
  readonly #restRandom: Prng
  #reader: SimReader | null = null
  /** Nobody is to write for a while. */
  #resting = false
  #healed = false
  #calm = false

  constructor(setup: SimulationSetup) {
    this.#seed = setup.seed
    this.#mutation = setup.mutation ?? null
    const root = new Prng(setup.seed)
    this.#random = root.fork('schedule')
    this.#clockRandom = root.fork('clocks')
    this.#restRandom = root.fork('rests')
    this.#options = { ...drawOptions(root.fork('options')), ...setup.overrides }
    const { safekeepers, startLsn } = this.#options
    this.#startLsn = startLsn
    this.#faults = new Faults(root.fork('faults'), setup.only ?? null)
    this.#network = new Network(
      this.#scheduler,
      root.fork('network'),
      this.#faults,
      this.#options.network,
    )
    this.#oracle = new Oracle(startLsn)
    this.#objects = new SimObjectStore({
      scheduler: this.#scheduler,
      random: root.fork('objects'),
      faults: this.#faults,
      coverage: this.#coverage,
      failChance: this.#options.objectStoreFailChance,
    })
    const addresses = new Map<number, Member>()
    const count = safekeepers + this.#options.spares
    for (let id = 1; id <= count; id += 1) {
      addresses.set(id, { id, host: `sk${id}`, pgPort: 5454, httpPort: 7676 })
    }
    const members = [...addresses.keys()].slice(0, safekeepers)
    this.#control = new SimControl({
      members,
      addresses,
      safekeepers: this.#safekeepers,
      network: this.#network,
      random: root.fork('control'),
      faults: this.#faults,
      oracle: this.#oracle,
      coverage: this.#coverage,
      mutation: this.#mutation,
      lossChance: this.#options.lossChance,
      crashChance: this.#options.controlCrashChance,
      elect: (configuration, over) => this.#elect(configuration, over),
    })
    const { configuration } = this.#control
    this.#oracle.configuration(configuration)
    for (const id of addresses.keys()) {
      const random = root.fork(`safekeeper ${id}`)
      this.#safekeepers.set(id, this.#newSafekeeper(id, configuration, random))
    }
    if (this.#options.peers) this.#acquaint(root)
    this.#addReaders(root)
  }

  run(): SimulationResult {
    let violation: Violation | null = null
    try {
      this.#storm()
      this.#heal()
    } catch (error) {
      violation =
        error instanceof Violation ? error : new Violation('assert', String((error as Error).stack))
    }
    if (this.#oracle.committedLsn > this.#startLsn) this.#coverage.count('committed')
    this.#coverage.count('commits', this.#oracle.commits)
    this.#coverage.count('joint commits', this.#oracle.jointCommits)
    for (const fault of this.#faults.fired) {
      this.#coverage.count(`fault: ${fault.slice(0, fault.indexOf(':'))}`)
    }
    return {
      seed: this.#seed,
      violation,
      traceHash: this.#scheduler.traceHash,
      recent: this.#scheduler.recent(),
      options: this.#options,
      coverage: this.#coverage,
      faults: this.#faults.fired,
      steps: this.#scheduler.steps,
    }
  }

  #addReaders(root: Prng): void {
    const safekeepers = this.#safekeepers
    const [network, oracle, coverage] = [this.#network, this.#oracle, this.#coverage]
    if (this.#options.pageserver) {
      const random = root.fork('reader')
      const startLsn = this.#startLsn
      const id = READER
      this.#reader = new SimReader({ id, startLsn, safekeepers, network, random, oracle, coverage })
    }
    if (!this.#options.offload) return
    for (const safekeeper of safekeepers.values()) {
      const offload = new SimOffload({
        safekeeper,
        safekeepers,
        store: this.#objects,
        random: root.fork(`offload ${safekeeper.id}`),
        oracle,
        coverage,
        mutation: this.#mutation,
        lieChance: this.#options.discoveryLieChance,
        evictAfterMs: this.#options.evictAfterMs,
      })
      this.#offloads.push(offload)
    }
  }

  /** Committed WAL out of object storage, as a stream falls back to it. */
  #archive(from: number, to: number): Buffer {
    this.#coverage.count('reads from object storage')
    const segment = segmentNumber(from)
    const owner = { tenantId: TENANT, timelineId: TIMELINE }
    const found = this.#objects.peek(segmentObject(owner, segment))
    if (found === null) throw new Violation('I19', 'WAL is neither on disk nor in object storage')
    const base = segmentStart(segment + 1) - found.length
    return found.subarray(from - base, to - base)
  }

  #acquaint(root: Prng): void {
    const { discoveryDropChance, discoveryLieChance } = this.#options
    const coverage = this.#coverage
    const discovery = new SimDiscovery({
      scheduler: this.#scheduler,
      random: root.fork('discovery'),
      faults: this.#faults,
      coverage,
      dropChance: discoveryDropChance,
      forgeChance: discoveryLieChance,
    })
    for (const safekeeper of this.#safekeepers.values()) {
      new SimPeers({
        safekeeper,
        safekeepers: this.#safekeepers,
        discovery,
        network: this.#network,
        random: root.fork(`peers ${safekeeper.id}`),
        coverage,
        mutation: this.#mutation,
      })
    }
  }

  #newSafekeeper(id: number, configuration: MemberConfiguration, random: Prng): SimSafekeeper {
    return new SimSafekeeper({
      id,
      control: newControlState({
        tenantId: TENANT,
        timelineId: TIMELINE,
        configuration,
        pgVersion: 170011,
        systemId: SYSTEM_ID,
        startLsn: this.#startLsn,
        createdAtMs: 0,
      }),
      network: this.#network,
      random,
      faults: this.#faults,
      oracle: this.#oracle,
      coverage: this.#coverage,
      maxDiskDelayMs: () => (this.#healed ? 1 : this.#options.maxDiskDelayMs),
      crashChance: this.#options.crashChance,
      eioChance: this.#options.eioChance,
      mutation: this.#mutation,
      archive: (from, to) => this.#archive(from, to),
      isMember: configuration.members.some((member) => member.id === id),
      onDown: (safekeeper) => this.#reboot(safekeeper),
    })
  }

  /** What a new compute is told of the members: sometimes what was true once. */
  #knownConfiguration(): MemberConfiguration {
    const { configuration } = this.#control
    const known = this.#configurations
    if (known.at(-1)?.generation !== configuration.generation) known.push(configuration)
    if (this.#healed || !this.#random.chance(this.#options.staleShare)) return configuration
    return this.#random.pick(known)
  }

  /** An election for the control plane, unless a compute lives that may hold one. */
  #elect(configuration: MemberConfiguration, over: () => void): void {
    if (this.#living().length > 0) {
      over()
      return
    }
    this.#coverage.count('elections for a change')
    const proposer = this.#startProposer(configuration, false)
    this.#scheduler.after(3000, () => {
      proposer.crash()
      over()
    })
  }

  #startProposer(
    configuration = this.#knownConfiguration(),
    writes = this.#healed || !this.#random.chance(this.#options.syncShare),
  ): SimProposer {
    const id = FIRST_PROPOSER + this.#proposers.length
    const { clockErrorMs } = this.#options
    const error = this.#healed ? 0 : 2 * this.#clockRandom.next() - 1
    const proposer = new SimProposer({
      id,
      tenantId: TENANT,
      timelineId: TIMELINE,
      configuration,
      systemId: SYSTEM_ID,
      safekeepers: this.#safekeepers,
      network: this.#network,
      random: new Prng(this.#seed).fork(`proposer ${id}`),
      faults: this.#faults,
      oracle: this.#oracle,
      coverage: this.#coverage,
      clock: {
        offsetMs: 10_000_000 + clockErrorMs * error,
        rate: 1 + Math.min(0.1, clockErrorMs / 1000) * error,
      },
      mutation: this.#mutation,
      limitLsn: this.#startLsn + LOG_BYTES - (this.#healed ? 150_000 : 350_000),
      maxWritePauseMs: this.#options.maxWritePauseMs,
      writes,
      maxRelayBytes: this.#healed ? 100_000 : this.#options.maxRelayBytes,
      fetchFailChance: 0.02,
      smallWindow: this.#options.smallWindow,
    })
    this.#proposers.push(proposer)
    return proposer
  }

  #storm(): void {
    this.#startProposer()
    if (this.#options.chairs) this.#musicalChairs()
    this.#disturb()
    if (this.#options.evictAfterMs !== null && this.#options.offload) this.#rest()
    let nextCheck = CHECK_EVERY
    while (this.#scheduler.step(STORM_MS)) {
      if (this.#scheduler.steps > MAX_STEPS) throw new Violation('liveness', 'too many steps')
      if (this.#scheduler.steps < nextCheck) continue
      nextCheck += CHECK_EVERY
      this.#check()
    }
    this.#check()
  }

  #living(): SimProposer[] {
    return this.#proposers.filter((proposer) => proposer.alive && !proposer.fenced)
  }

  /** Every so often something happens to a node. */
  #disturb(): void {
    const random = this.#random
    this.#scheduler.after(random.next() * this.#options.calmMs, () => {
      if (this.#healed) return
      this.#mishap()
      const alive = this.#living().length
      if (
        !this.#resting &&
        alive < 2 &&
        random.chance(alive === 0 ? 0.8 : this.#options.rivalChance)
      ) {
        this.#startProposer()
      }
      this.#disturb()
    })
  }

  /** Now and then nobody writes for some seconds: timelines become idle and leave the disks. */
  #rest(): void {
    const random = this.#restRandom
    this.#scheduler.after(500 + random.next() * 2000, () => {
      if (this.#healed) return
      this.#resting = true
      this.#coverage.count('quiet times')
      for (const one of this.#safekeepers.values()) this.#hold(one, false)
      // First every member hears what was committed last.
      for (const proposer of this.#living()) proposer.rest()
      this.#scheduler.after(500 + random.next() * 1000, () => {
        if (!this.#healed) for (const proposer of this.#living()) proposer.crash()
      })
      this.#scheduler.after(2500 + random.next() * 4000, () => {
        this.#resting = false
        if (this.#healed) return
        this.#rot()
        this.#startProposer()
        this.#rest()
      })
    })
  }

  /** The stored end of one of several copies of the log is not what it was. */
  #rot(): void {
    const rot = this.#faults.kind('rot')
    if (this.#offloads.length === 0 || this.#members().length < 3) return
    if (rot.fires(this.#options.rotShare)) rot.random.pick(this.#offloads).rot(rot.random)
  }

  /** One kind of mishap, by the shares of this run; each draws from its own stream. */
  #mishap(): void {
    const { pauseShare, partitionShare, jumpShare, wipeShare, fullShare, chairs } = this.#options
    const all = this.#members()
    const alive = this.#living()
    const pause = this.#faults.kind('pause')
    if (pause.fires(pauseShare)) {
      const nodes = [...all, ...alive]
      pause.random.pick(nodes).host.pause(pause.random.next() * pause.random.pick([500, 15_000]))
    }
    const partition = this.#faults.kind('partition')
    if (partition.fires(partitionShare)) this.#partition(partition.random)
    const jump = this.#faults.kind('clock-jump')
    if (jump.fires(jumpShare) && alive.length > 0) {
      jump.random.pick(alive).host.clock.offsetMs += jump.random.pick([-3_600_000, 3_600_000, 5000])
    }
    const wipe = this.#faults.kind('wipe')
    if (wipe.fires(wipeShare)) this.#wipe(wipe.random)
    const full = this.#faults.kind('disk-full')
    if (full.fires(fullShare)) this.#fillDisk(full.random)
    const restart = this.#faults.kind('restart-pageserver')
    if (this.#reader !== null && restart.fires(0.1)) this.#reader.restart()
    this.#rot()
    this.#administer()
    if (chairs && !this.#resting) return
    const crash = this.#faults.kind('crash')
    if (crash.fires(0.4)) crash.random.pick(all).crash(crash.random.chance(0.6))
    const kill = this.#faults.kind('kill-compute')
    if (alive.length > 0 && kill.fires(0.3)) kill.random.pick(alive).crash()
  }

  /** What operators and the control plane do. */
  #administer(): void {
    const { changeShare, abortShare, bumpShare } = this.#options
    const change = this.#faults.kind('change-members')
    if (change.fires(changeShare)) this.#changeMembers(change.random)
    const abort = this.#faults.kind('abort-change')
    if (abort.fires(abortShare)) this.#control.abort()
    const bump = this.#faults.kind('bump-term')
    if (!bump.fires(bumpShare)) return
    const target = bump.random.pick(this.#members())
    const term = target.durableTerm + bump.random.int(1, 3)
    this.#coverage.count('term bumps by an operator')
    target.request(
      (request) => ({ kind: 'bump-term', request, term }),
      () => {},
    )
  }

  #changeMembers(random: Prng): void {
    const { members } = this.#control.membership
    const lost = members.filter((id) => this.#safekeepers.get(id)?.absent === true)
    if (lost.length > 0) {
      this.#control.change(members, lost)
      return
    }
    const all = this.#shuffled(random)
    const target = random.chance(0.3)
      ? all.filter((one) => !members.includes(one.id))
      : all.slice(0, random.int(1, Math.min(6, all.length)))
    this.#control.change(target.map((one) => one.id))
  }

  /** Everybody who takes part at present. */
  #members(): SimSafekeeper[] {
    const ids = allMembers(this.#control.membership)
    return ids.map((id) => this.#safekeepers.get(id) as SimSafekeeper)
  }

  /** Cuts a random part of the nodes off from the rest, in one direction or both. */
  #partition(random: Prng): void {
    const nodes = [...this.#safekeepers.keys(), ...this.#living().map((one) => one.host.id)]
    const side = new Set(nodes.filter(() => random.chance(0.5)))
    const durationMs = random.next() * random.pick([500, 4000, 15_000])
    const bothWays = random.chance(0.5)
    this.#coverage.count(bothWays ? 'partitions' : 'asymmetric partitions')
    for (const a of nodes) {
      for (const b of nodes) {
        if (!side.has(a) || side.has(b)) continue
        this.#network.block(a, b, durationMs)
        if (bothWays) this.#network.block(b, a, durationMs)
      }
    }
  }

  #fillDisk(random: Prng): void {
    const safekeeper = random.pick([...this.#safekeepers.values()])
    safekeeper.diskFull = true
    this.#scheduler.after(random.next() * 4000, () => {
      safekeeper.diskFull = false
    })
  }

  /** A disk is lost: one at a time, while nothing else changes and all others have theirs. */
  #wipe(random: Prng): void {
    const { newMembers, announced, members } = this.#control.membership
    if (newMembers !== null || !announced || members.length < 3) return
    const nodes = this.#members()
    if (nodes.some((one) => one.absent)) return
    random.pick(nodes).wipe()
  }

  /**
   * Rounds that make logs diverge: a random majority is up, one leader writes, then all but one of
   * them go away while it still writes to the last, then the leader goes too.
   */
  #musicalChairs(): void {
    if (this.#healed) return
    const random = this.#random
    if (this.#resting) {
      this.#scheduler.after(this.#options.roundMs, () => this.#musicalChairs())
      return
    }
    const all = this.#members()
    const absent = random.int(0, Math.ceil(all.length / 2) - 1)
    const shuffled = this.#shuffled(random).filter((one) => all.includes(one))
    for (const [index, one] of shuffled.entries()) this.#hold(one, index < absent)
    const roundMs = 40 + random.next() * this.#options.roundMs
    // Often in the middle of the election, between a vote and what follows from it.
    const leaveMs = random.chance(0.5) ? random.next() * 30 : roundMs * random.next()
    const survivor = shuffled.at(-1)
    this.#scheduler.after(leaveMs, () => {
      if (this.#healed || this.#resting) return
      for (const one of all) if (one !== survivor) this.#hold(one, true)
    })
    this.#scheduler.after(roundMs, () => {
      if (this.#healed) return
      if (!this.#resting) {
        if (!random.chance(0.1)) for (const proposer of this.#proposers) proposer.crash()
        this.#startProposer()
      }
      this.#musicalChairs()
    })
  }

  #shuffled(random: Prng): SimSafekeeper[] {
    return [...this.#safekeepers.values()]
      .map((one) => ({ one, key: random.next() }))
      .sort((a, b) => a.key - b.key)
      .map(({ one }) => one)
  }

  /** Keeps a safekeeper down, or lets it up again. */
  #hold(safekeeper: SimSafekeeper, down: boolean): void {
    if (down) {
      if (this.#held.has(safekeeper)) return
      this.#held.add(safekeeper)
      safekeeper.crash(this.#random.chance(0.5))
    } else if (this.#held.delete(safekeeper)) safekeeper.boot()
  }

  #reboot(safekeeper: SimSafekeeper): void {
    const delayMs = this.#healed ? 50 : 5 + this.#random.next() * this.#options.maxDownMs
    const { life } = safekeeper.host
    this.#scheduler.after(delayMs, () => {
      if (this.#held.has(safekeeper) || safekeeper.host.life !== life) return
      safekeeper.boot()
    })
  }

  #check(): void {
    const present = [...this.#safekeepers.values()].filter((one) => !one.absent)
    for (const [index, safekeeper] of present.entries()) {
      this.#oracle.history(safekeeper.durableControl.history)
      this.#oracle.configuration(safekeeper.durableControl.configuration)
      if (safekeeper.acceptor === null) continue
      safekeeper.checkElsewhere()
      this.#oracle.checkCommitted(safekeeper, safekeeper.commitLsn)
      for (const other of present.slice(index + 1)) {
        if (other.acceptor !== null) this.#oracle.checkPrefix(safekeeper, other)
      }
    }
  }

  /** Nothing bad happens any more; a random majority comes back first and must do without the rest. */
  #heal(): void {
    this.#healed = true
    this.#faults.active = false
    this.#objects.repair()
    const before = this.#oracle.committedLsn
    for (const proposer of this.#proposers) proposer.crash()
    this.#network.heal()
    const core = this.#core()
    for (const one of this.#safekeepers.values()) {
      one.host.resume()
      one.diskFull = false
      this.#hold(one, !core.includes(one))
    }
    this.#control.restart()
    for (const one of core) one.boot()
    this.#runFor(this.#options.maxDownMs + 200, () => core.every((one) => one.reachable))
    let proposer = this.#startProposer()
    const relieve = (): SimProposer => {
      // A compute of before the healing may still have been under way to a vote.
      if (proposer.fenced) proposer = this.#startProposer()
      return proposer
    }
    this.#flap([...this.#safekeepers.values()].filter((one) => !core.includes(one)))
    const flappedMs = this.#scheduler.nowMs + FLAPPING_MS
    this.#runFor(HEALED_MS, () => {
      return this.#settled(relieve(), before) && this.#scheduler.nowMs >= flappedMs
    })
    this.#calm = true
    for (const one of this.#safekeepers.values()) this.#hold(one, false)
    this.#runFor(HEALED_MS, () => {
      if (!this.#control.settled || !this.#settled(relieve(), before)) return false
      if (this.#reader !== null && this.#reader.received < before) return false
      const goal = proposer.core.termStartLsn
      return this.#members().every((one) => {
        const isLost = one.absent && !this.#control.membership.pending.includes(one.id)
        return isLost || one.absent || one.commitLsn >= goal
      })
    })
    this.#check()
  }

  /** All but the core go on coming and going, several times each second. */
  #flap(others: readonly SimSafekeeper[]): void {
    if (others.length === 0) return
    this.#scheduler.after(100 + this.#random.next() * 400, () => {
      if (this.#calm) return
      const one = this.#random.pick(others)
      this.#hold(one, !this.#held.has(one))
      this.#coverage.count('comings and goings beside the core')
      this.#flap(others)
    })
  }

  /**
   * A random majority of each member set, of those who have their disks; new members without a copy
   * all come, since too few of the others may be there for a majority.
   */
  #core(): SimSafekeeper[] {
    const { members, newMembers } = this.#control.membership
    const core = new Set<SimSafekeeper>()
    const shuffled = this.#shuffled(this.#random)
    for (const ids of [members, newMembers ?? []]) {
      const set = shuffled.filter((one) => ids.includes(one.id))
      const present = set.filter((one) => !one.absent)
      const wanted = ids.length === 0 ? 0 : majority(ids.length)
      for (const one of present.length >= wanted ? present.slice(0, wanted) : set) core.add(one)
    }
    return [...core]
  }

  #runFor(durationMs: number, done: () => boolean): void {
    const deadline = this.#scheduler.nowMs + durationMs
    while (!done()) {
      if (!this.#scheduler.step(deadline)) {
        throw new Violation('liveness', `no progress after the healing: ${this.#state()}`)
      }
      if (this.#scheduler.steps > 2 * MAX_STEPS) throw new Violation('liveness', 'too many steps')
    }
  }

  /** The new compute has committed its first record, or all that it may write. */
  #settled(proposer: SimProposer, before: number): boolean {
    if (!proposer.ready || this.#oracle.committedLsn < before) return false
    // One that was elected again after it had written all it may has nothing more to commit.
    if (proposer.full) return proposer.core.commitLsn === proposer.endLsn
    return proposer.core.commitLsn >= proposer.core.termStartLsn + 128
  }

  #state(): string {
    const safekeepers = [...this.#safekeepers.values()].map((safekeeper) => {
      const { acceptor, id, absent } = safekeeper
      if (acceptor === null) return `sk${id} ${absent ? 'absent' : 'down'}`
      return `sk${id} term ${acceptor.control.term} flush ${acceptor.flushLsn} commit ${acceptor.commitLsn}`
    })
    const proposer = this.#proposers.at(-1)
    const record = JSON.stringify(this.#control.membership)
    return (
      `${safekeepers.join(', ')}; ${record} ${JSON.stringify(proposer?.core.nodes())} ${proposer?.core.phase} from ${proposer?.core.termStartLsn}, ` +
      `commit ${proposer?.core.commitLsn}, change ${this.#control.settled ? 'over' : 'under way'}`
    )
  }
}
