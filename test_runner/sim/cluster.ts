/**
 * The nodes of one run and the world they share: safekeepers, computes, the control plane, readers,
 * object storage. What happens to them is decided elsewhere, by the storm and the healing.
 */
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { segmentNumber } from '#libs/lsn.ts'
import type { Member, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import { allMembers } from '../../control/membership/membership.ts'
import { newControlState } from '../../safekeeper/control-state.ts'
import { segmentObject } from '../../safekeeper/offload/wal-objects.ts'
import { segmentStart } from '../../safekeeper/store/segment-plan.ts'
import { Coverage } from './coverage.ts'
import { SimDiscovery } from './discovery.ts'
import { Faults } from './faults.ts'
import type { Mutation } from './mutations.ts'
import { Network } from './network.ts'
import { SimObjectStore } from './object-store.ts'
import { drawOptions, type SimulationOptions } from './options.ts'
import { LOG_BYTES, Oracle, Violation } from './oracle.ts'
import { Prng } from './prng.ts'
import { Scheduler } from './scheduler.ts'
import { SimControl } from './sim-control.ts'
import { SimOffload } from './sim-offload.ts'
import { SimPeers } from './sim-peers.ts'
import { SimProposer } from './sim-proposer.ts'
import { SimReader } from './sim-reader.ts'
import { SimSafekeeper } from './sim-safekeeper.ts'

const TENANT = parseTenantId('5'.repeat(32))
const TIMELINE = parseTimelineId('7'.repeat(32))
const SYSTEM_ID = 7_123_456_789_012_345_678n
const FIRST_PROPOSER = 100
const READER = 800

export interface SimulationSetup {
  seed: number
  mutation?: Mutation | null
  /** Replace drawn options, to aim at one kind of trouble. */
  overrides?: Partial<SimulationOptions>
  /** No other faults than these happen. */
  only?: ReadonlySet<string> | null
}

export class Cluster {
  readonly scheduler = new Scheduler()
  /** What decides when things happen, and to whom. */
  readonly random: Prng
  /** Every concern forks a stream of its own from it. */
  readonly root: Prng
  readonly faults: Faults
  readonly network: Network
  readonly oracle: Oracle
  readonly coverage = new Coverage()
  readonly safekeepers = new Map<number, SimSafekeeper>()
  readonly options: SimulationOptions
  readonly control: SimControl
  readonly proposers: SimProposer[] = []
  readonly objects: SimObjectStore
  readonly offloads: SimOffload[] = []
  /** Nothing bad happens any more. */
  healed = false
  readonly #clockRandom: Prng
  readonly #mutation: Mutation | null
  readonly #startLsn: number
  readonly #configurations: MemberConfiguration[] = []
  readonly #held = new Set<SimSafekeeper>()
  #reader: SimReader | null = null

  constructor(setup: SimulationSetup) {
    this.#mutation = setup.mutation ?? null
    const root = new Prng(setup.seed)
    this.root = root
    this.random = root.fork('schedule')
    this.#clockRandom = root.fork('clocks')
    this.options = { ...drawOptions(root.fork('options')), ...setup.overrides }
    const { safekeepers, startLsn } = this.options
    this.#startLsn = startLsn
    this.faults = new Faults(root.fork('faults'), setup.only ?? null)
    const { scheduler, faults } = this
    this.network = new Network(scheduler, root.fork('network'), faults, this.options.network)
    this.oracle = new Oracle(startLsn)
    this.objects = new SimObjectStore({
      scheduler,
      random: root.fork('objects'),
      faults,
      coverage: this.coverage,
      failChance: this.options.objectStoreFailChance,
    })
    const addresses = new Map<number, Member>()
    const count = safekeepers + this.options.spares
    for (let id = 1; id <= count; id += 1) {
      addresses.set(id, { id, host: `sk${id}`, pgPort: 5454, httpPort: 7676 })
    }
    const members = [...addresses.keys()].slice(0, safekeepers)
    this.control = new SimControl({
      members,
      addresses,
      safekeepers: this.safekeepers,
      network: this.network,
      random: root.fork('control'),
      faults,
      oracle: this.oracle,
      coverage: this.coverage,
      mutation: this.#mutation,
      lossChance: this.options.lossChance,
      crashChance: this.options.controlCrashChance,
      elect: (configuration, over) => this.#elect(configuration, over),
    })
    const { configuration } = this.control
    this.oracle.configuration(configuration)
    for (const id of addresses.keys()) {
      const random = root.fork(`safekeeper ${id}`)
      this.safekeepers.set(id, this.#newSafekeeper(id, configuration, random))
    }
    if (this.options.peers) this.#acquaint()
    this.#addReaders()
  }

  /** The page server; null in runs without one. */
  get reader(): SimReader | null {
    return this.#reader
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
      network: this.network,
      random,
      faults: this.faults,
      oracle: this.oracle,
      coverage: this.coverage,
      maxDiskDelayMs: () => (this.healed ? 1 : this.options.maxDiskDelayMs),
      crashChance: this.options.crashChance,
      eioChance: this.options.eioChance,
      mutation: this.#mutation,
      archive: (from, to) => this.#archive(from, to),
      isMember: configuration.members.some((member) => member.id === id),
      onDown: (safekeeper) => this.#reboot(safekeeper),
    })
  }

  #acquaint(): void {
    const { root, coverage, network } = this
    const { discoveryDropChance, discoveryLieChance } = this.options
    const discovery = new SimDiscovery({
      scheduler: this.scheduler,
      random: root.fork('discovery'),
      faults: this.faults,
      coverage,
      dropChance: discoveryDropChance,
      forgeChance: discoveryLieChance,
    })
    for (const safekeeper of this.safekeepers.values()) {
      new SimPeers({
        safekeeper,
        safekeepers: this.safekeepers,
        discovery,
        network,
        random: root.fork(`peers ${safekeeper.id}`),
        coverage,
        mutation: this.#mutation,
      })
    }
  }

  #addReaders(): void {
    const { root, safekeepers, network, oracle, coverage } = this
    if (this.options.pageserver) {
      const random = root.fork('reader')
      const startLsn = this.#startLsn
      const id = READER
      this.#reader = new SimReader({ id, startLsn, safekeepers, network, random, oracle, coverage })
    }
    if (!this.options.offload) return
    for (const safekeeper of safekeepers.values()) {
      const offload = new SimOffload({
        safekeeper,
        safekeepers,
        store: this.objects,
        random: root.fork(`offload ${safekeeper.id}`),
        oracle,
        coverage,
        mutation: this.#mutation,
        lieChance: this.options.discoveryLieChance,
        evictAfterMs: this.options.evictAfterMs,
      })
      this.offloads.push(offload)
    }
  }

  /** Committed WAL out of object storage, as a stream falls back to it. */
  #archive(from: number, to: number): Buffer {
    this.coverage.count('reads from object storage')
    const segment = segmentNumber(from)
    const owner = { tenantId: TENANT, timelineId: TIMELINE }
    const found = this.objects.peek(segmentObject(owner, segment))
    if (found === null) throw new Violation('I19', 'WAL is neither on disk nor in object storage')
    const base = segmentStart(segment + 1) - found.length
    return found.subarray(from - base, to - base)
  }

  /** What a new compute is told of the members: sometimes what was true once. */
  #knownConfiguration(): MemberConfiguration {
    const { configuration } = this.control
    const known = this.#configurations
    if (known.at(-1)?.generation !== configuration.generation) known.push(configuration)
    if (this.healed || !this.random.chance(this.options.staleShare)) return configuration
    return this.random.pick(known)
  }

  /** An election for the control plane, unless a compute lives that may hold one. */
  #elect(configuration: MemberConfiguration, over: () => void): void {
    if (this.living().length > 0) {
      over()
      return
    }
    this.coverage.count('elections for a change')
    const proposer = this.startProposer(configuration, false)
    this.scheduler.after(3000, () => {
      proposer.crash()
      over()
    })
  }

  /** A new compute, which begins with an election. */
  startProposer(
    configuration = this.#knownConfiguration(),
    writes = this.healed || !this.random.chance(this.options.syncShare),
  ): SimProposer {
    const id = FIRST_PROPOSER + this.proposers.length
    const { clockErrorMs } = this.options
    const error = this.healed ? 0 : 2 * this.#clockRandom.next() - 1
    const proposer = new SimProposer({
      id,
      tenantId: TENANT,
      timelineId: TIMELINE,
      configuration,
      systemId: SYSTEM_ID,
      safekeepers: this.safekeepers,
      network: this.network,
      random: this.root.fork(`proposer ${id}`),
      faults: this.faults,
      oracle: this.oracle,
      coverage: this.coverage,
      clock: {
        offsetMs: 10_000_000 + clockErrorMs * error,
        rate: 1 + Math.min(0.1, clockErrorMs / 1000) * error,
      },
      mutation: this.#mutation,
      limitLsn: this.#startLsn + LOG_BYTES - (this.healed ? 150_000 : 350_000),
      maxWritePauseMs: this.options.maxWritePauseMs,
      writes,
      maxRelayBytes: this.healed ? 100_000 : this.options.maxRelayBytes,
      fetchFailChance: 0.02,
      smallWindow: this.options.smallWindow,
    })
    this.proposers.push(proposer)
    return proposer
  }

  /** Computes that run, and have not learned of a newer one. */
  living(): SimProposer[] {
    return this.proposers.filter((proposer) => proposer.alive && !proposer.fenced)
  }

  /** Everybody who takes part at present. */
  members(): SimSafekeeper[] {
    const ids = allMembers(this.control.membership)
    return ids.map((id) => this.safekeepers.get(id) as SimSafekeeper)
  }

  /** All safekeepers, in random order. */
  shuffled(random: Prng): SimSafekeeper[] {
    return [...this.safekeepers.values()]
      .map((one) => ({ one, key: random.next() }))
      .sort((a, b) => a.key - b.key)
      .map(({ one }) => one)
  }

  /** Keeps a safekeeper down, or lets it up again. */
  hold(safekeeper: SimSafekeeper, down: boolean): void {
    if (down) {
      if (this.#held.has(safekeeper)) return
      this.#held.add(safekeeper)
      safekeeper.crash(this.random.chance(0.5))
    } else if (this.#held.delete(safekeeper)) safekeeper.boot()
  }

  isHeld(safekeeper: SimSafekeeper): boolean {
    return this.#held.has(safekeeper)
  }

  #reboot(safekeeper: SimSafekeeper): void {
    const delayMs = this.healed ? 50 : 5 + this.random.next() * this.options.maxDownMs
    const { life } = safekeeper.host
    this.scheduler.after(delayMs, () => {
      if (this.#held.has(safekeeper) || safekeeper.host.life !== life) return
      safekeeper.boot()
    })
  }

  /** What must hold at any moment, on all disks at once. */
  check(): void {
    const present = [...this.safekeepers.values()].filter((one) => !one.absent)
    for (const [index, safekeeper] of present.entries()) {
      this.oracle.history(safekeeper.durableControl.history)
      this.oracle.configuration(safekeeper.durableControl.configuration)
      if (safekeeper.acceptor === null) continue
      safekeeper.checkElsewhere()
      this.oracle.checkCommitted(safekeeper, safekeeper.commitLsn)
      for (const other of present.slice(index + 1)) {
        if (other.acceptor !== null) this.oracle.checkPrefix(safekeeper, other)
      }
    }
  }

  /** Where everybody is, in a line. */
  describe(): string {
    const safekeepers = [...this.safekeepers.values()].map((safekeeper) => {
      const { acceptor, id, absent } = safekeeper
      if (acceptor === null) return `sk${id} ${absent ? 'absent' : 'down'}`
      return `sk${id} term ${acceptor.control.term} flush ${acceptor.flushLsn} commit ${acceptor.commitLsn}`
    })
    const proposer = this.proposers.at(-1)
    const record = JSON.stringify(this.control.membership)
    return (
      `${safekeepers.join(', ')}; ${record} ${JSON.stringify(proposer?.core.nodes())} ${proposer?.core.phase} from ${proposer?.core.termStartLsn}, ` +
      `commit ${proposer?.core.commitLsn}, change ${this.control.settled ? 'over' : 'under way'}`
    )
  }
}
