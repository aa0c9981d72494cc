/**
 * One run from one seed: 1 to 3 safekeepers, computes that come, compete and crash, a network that
 * breaks and clogs, disks that lose what was not synced. First a stormy phase in which the oracle
 * watches safety; then everything is healed and one new compute must get on (liveness), all logs
 * must become equal, and everything ever committed must still be there.
 */
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { WAL_SEGMENT_SIZE, walPageOffset, WAL_PAGE_SIZE } from '#libs/lsn.ts'
import type { Member } from '#libs/protocol/wal-push.ts'
import { type ControlState, newControlState } from '../../safekeeper/control-state.ts'
import { DISK_BYTES } from './disk.ts'
import type { NetworkOptions } from './network.ts'
import { Oracle, Violation } from './oracle.ts'
import { Prng } from './prng.ts'
import { Scheduler } from './scheduler.ts'
import { SimProposer } from './sim-proposer.ts'
import { type SafekeeperMutation, SimSafekeeper } from './sim-safekeeper.ts'

export type Mutation = SafekeeperMutation | 'commit-without-term-start'

const TENANT = newTenantId()
const TIMELINE = newTimelineId()
const SYSTEM_ID = 7_123_456_789_012_345_678n
const STORM_MS = 12_000
const HEALED_MS = 60_000
const MAX_STEPS = 400_000
const CHECK_EVERY = 200

export type SimulationOptions = ReturnType<typeof drawOptions>

/** Aims at logs that diverge over several leaders. */
export const DIVERGENCE: Partial<SimulationOptions> = {
  safekeepers: 3,
  chairs: true,
  roundMs: 200,
  network: { minDelayMs: 1, maxDelayMs: 15, breakChance: 0, clogChance: 0 },
  maxDiskDelayMs: 0.3,
  crashChance: 0,
  maxWritePauseMs: 20,
  maxRelayBytes: 500,
  syncShare: 0.5,
}

export interface SimulationResult {
  seed: number
  violation: Violation | null
  traceHash: string
  recent: readonly string[]
  options: Record<string, unknown>
  stats: {
    steps: number
    commits: number
    committedBytes: number
    truncations: number
    crashes: number
    terms: number
  }
}

export class Simulation {
  readonly #seed: number
  readonly #scheduler = new Scheduler()
  readonly #random: Prng
  readonly #oracle: Oracle
  readonly #safekeepers = new Map<number, SimSafekeeper>()
  readonly #members: Member[] = []
  readonly #options: SimulationOptions
  readonly #mutation: Mutation | null
  readonly #startLsn: number
  #proposers: SimProposer[] = []
  #proposerCounter = 0
  readonly #held = new Set<SimSafekeeper>()
  #healed = false
  #quiet: NetworkOptions = { minDelayMs: 0.05, maxDelayMs: 1, breakChance: 0, clogChance: 0 }

  /** `overrides` replace drawn options, to aim at one kind of trouble. */
  constructor(
    seed: number,
    mutation: Mutation | null = null,
    overrides: Partial<SimulationOptions> = {},
  ) {
    this.#seed = seed
    this.#mutation = mutation
    const root = new Prng(seed)
    this.#random = root.fork('schedule')
    this.#options = { ...drawOptions(root.fork('options')), ...overrides }
    this.#startLsn = this.#options.startLsn
    for (let id = 1; id <= this.#options.safekeepers; id += 1) {
      this.#members.push({ id, host: `sk${id}`, pgPort: 5454, httpPort: 7676 })
    }
    this.#oracle = new Oracle(this.#startLsn, this.#members.length)
    for (const { id } of this.#members) {
      this.#safekeepers.set(
        id,
        new SimSafekeeper({
          id,
          control: this.#initialControl(),
          scheduler: this.#scheduler,
          random: root.fork(`safekeeper ${id}`),
          oracle: this.#oracle,
          maxDiskDelayMs: this.#options.maxDiskDelayMs,
          crashChance: this.#options.crashChance,
          mutation: mutation === 'commit-without-term-start' ? null : mutation,
          onCrash: (safekeeper) => this.#reboot(safekeeper),
        }),
      )
    }
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
    const safekeepers = [...this.#safekeepers.values()]
    return {
      seed: this.#seed,
      violation,
      traceHash: this.#scheduler.traceHash,
      recent: this.#scheduler.recent,
      options: this.#options,
      stats: {
        steps: this.#scheduler.steps,
        commits: this.#oracle.commits,
        committedBytes: this.#oracle.committedLsn - this.#startLsn,
        truncations: safekeepers.reduce((sum, safekeeper) => sum + safekeeper.truncations, 0),
        crashes: safekeepers.reduce((sum, safekeeper) => sum + safekeeper.crashes, 0),
        terms: Math.max(...this.#proposers.map((proposer) => proposer.core.term), 0),
      },
    }
  }

  #initialControl(): ControlState {
    return newControlState({
      tenantId: TENANT,
      timelineId: TIMELINE,
      configuration: { generation: 1, members: this.#members, newMembers: null },
      pgVersion: 170011,
      systemId: SYSTEM_ID,
      startLsn: this.#startLsn,
      createdAtMs: 0,
    })
  }

  #startProposer(): void {
    const counter = ++this.#proposerCounter
    const network = this.#healed ? this.#quiet : this.#options.network
    this.#proposers.push(
      new SimProposer({
        name: `wp${counter}`,
        tenantId: TENANT,
        timelineId: TIMELINE,
        members: this.#members,
        systemId: SYSTEM_ID,
        safekeepers: this.#safekeepers,
        scheduler: this.#scheduler,
        random: new Prng(this.#seed).fork(`proposer ${counter}`),
        network,
        oracle: this.#oracle,
        limitLsn: this.#startLsn + DISK_BYTES - (this.#healed ? 150_000 : 350_000),
        maxWritePauseMs: this.#options.maxWritePauseMs,
        writes: this.#healed || !this.#random.chance(this.#options.syncShare),
        maxRelayBytes: this.#healed ? 100_000 : this.#options.maxRelayBytes,
        fetchFailChance: this.#healed ? 0 : 0.02,
        hasty: this.#mutation === 'commit-without-term-start',
        smallWindow: this.#options.smallWindow,
      }),
    )
  }

  #storm(): void {
    this.#startProposer()
    this.#disturb()
    while (this.#scheduler.step(STORM_MS)) {
      if (this.#scheduler.steps > MAX_STEPS) throw new Violation('liveness', 'too many steps')
      if (this.#scheduler.steps % CHECK_EVERY === 0) this.#check()
    }
    this.#check()
  }

  /** Every so often something happens to a node. */
  #disturb(): void {
    if (this.#options.chairs) {
      this.#musicalChairs()
      return
    }
    const random = this.#random
    this.#scheduler.after(random.next() * this.#options.calmMs, () => {
      if (this.#healed) return
      const alive = this.#proposers.filter((proposer) => proposer.alive && !proposer.fenced)
      if (random.chance(0.4)) random.pick([...this.#safekeepers.values()]).crash()
      else if (alive.length > 0 && random.chance(0.5)) random.pick(alive).crash()
      if (alive.length < 2 && random.chance(alive.length === 0 ? 0.8 : this.#options.rivalChance)) {
        this.#startProposer()
      }
      this.#disturb()
    })
  }

  /**
   * Rounds that make logs diverge: a random majority is up, one leader writes, then all but one of
   * them go away while it still writes to the last, then the leader goes too.
   */
  #musicalChairs(): void {
    if (this.#healed) return
    const random = this.#random
    const all = [...this.#safekeepers.values()]
    const absent = random.int(0, Math.ceil(all.length / 2) - 1)
    const shuffled = all.map((one) => ({ one, key: random.next() })).sort((a, b) => a.key - b.key)
    for (const [index, { one }] of shuffled.entries()) this.#hold(one, index < absent)
    const roundMs = 40 + random.next() * this.#options.roundMs
    // Often in the middle of the election, between a vote and what follows from it.
    const leaveMs = random.chance(0.5) ? random.next() * 30 : roundMs * random.next()
    const survivor = shuffled.at(-1)?.one
    this.#scheduler.after(leaveMs, () => {
      if (this.#healed) return
      for (const one of all) if (one !== survivor) this.#hold(one, true)
    })
    this.#scheduler.after(roundMs, () => {
      if (this.#healed) return
      if (!random.chance(0.1)) for (const proposer of this.#proposers) proposer.crash()
      this.#startProposer()
      this.#musicalChairs()
    })
  }

  /** Keeps a safekeeper down, or lets it up again. */
  #hold(safekeeper: SimSafekeeper, down: boolean): void {
    if (down) {
      this.#held.add(safekeeper)
      safekeeper.crash()
    } else if (this.#held.delete(safekeeper) && safekeeper.acceptor === null) safekeeper.boot()
  }

  #reboot(safekeeper: SimSafekeeper): void {
    const delayMs = this.#healed ? 50 : 5 + this.#random.next() * this.#options.maxDownMs
    this.#scheduler.after(delayMs, () => {
      if (!this.#held.has(safekeeper) && safekeeper.acceptor === null) safekeeper.boot()
    })
  }

  #check(): void {
    const live = [...this.#safekeepers.values()].filter((one) => one.acceptor !== null)
    for (const [index, safekeeper] of live.entries()) {
      const commitLsn = safekeeper.acceptor?.commitLsn ?? this.#startLsn
      this.#oracle.checkCommitted(safekeeper, commitLsn)
      this.#oracle.history(safekeeper.acceptor?.control.history ?? [])
      for (const other of live.slice(index + 1)) this.#oracle.checkPrefix(safekeeper, other)
    }
  }

  #heal(): void {
    this.#healed = true
    for (const safekeeper of this.#safekeepers.values()) safekeeper.crashChance = 0
    for (const proposer of this.#proposers) proposer.crash()
    for (const safekeeper of [...this.#held]) this.#hold(safekeeper, false)
    const before = this.#oracle.committedLsn
    const untilBoot = this.#scheduler.nowMs + this.#options.maxDownMs + 100
    while (this.#scheduler.step(untilBoot)) this.#limitSteps()
    this.#startProposer()
    const proposer = this.#proposers.at(-1) as SimProposer
    const deadline = this.#scheduler.nowMs + HEALED_MS
    while (!this.#settled(proposer, before)) {
      if (!this.#scheduler.step(deadline)) {
        throw new Violation('liveness', `no progress after everything was healed: ${this.#state()}`)
      }
      this.#limitSteps()
    }
    this.#check()
  }

  #limitSteps(): void {
    if (this.#scheduler.steps > 2 * MAX_STEPS) throw new Violation('liveness', 'too many steps')
  }

  /** The new compute has committed more than its first record, and every safekeeper has all of it. */
  #settled(proposer: SimProposer, before: number): boolean {
    if (!proposer.ready || this.#oracle.committedLsn < before) return false
    const goal = proposer.core.termStartLsn + 128
    if (proposer.core.commitLsn < goal) return false
    return [...this.#safekeepers.values()].every(
      (safekeeper) => safekeeper.acceptor !== null && safekeeper.acceptor.commitLsn >= goal,
    )
  }

  #state(): string {
    const safekeepers = [...this.#safekeepers.values()].map((safekeeper) => {
      const acceptor = safekeeper.acceptor
      return `sk${safekeeper.id} term ${acceptor?.control.term} flush ${acceptor?.flushLsn}`
    })
    const proposer = this.#proposers.at(-1)
    return `${safekeepers.join(', ')}; ${JSON.stringify(proposer?.core.nodes())} ${proposer?.core.phase}`
  }
}

/** Each run has its own mix of dangers. */
function drawOptions(random: Prng) {
  const maxDelayMs = random.pick([1, 5, 50])
  const network: NetworkOptions = {
    minDelayMs: 0.05,
    maxDelayMs,
    breakChance: random.pick([0, 0.0005, 0.005, 0.02]),
    clogChance: random.pick([0, 0, 0.001, 0.01]),
  }
  return {
    safekeepers: random.pick([1, 2, 3, 3, 3, 3]),
    startLsn: drawStart(random),
    network,
    maxDiskDelayMs: random.pick([0.3, 5, 50]),
    crashChance: random.pick([0, 0, 0.0005, 0.003]),
    calmMs: random.pick([300, 1500, 6000]),
    maxDownMs: random.pick([50, 1000, 5000]),
    maxWritePauseMs: random.pick([5, 50, 300]),
    rivalChance: random.pick([0, 0.2, 0.6]),
    smallWindow: random.chance(0.5),
    chairs: random.chance(0.5),
    roundMs: random.pick([100, 300, 1000]),
    syncShare: random.pick([0, 0.3]),
    maxRelayBytes: random.pick([500, 5_000, 60_000]),
  }
}

/** A record boundary, often beside a page or segment boundary. */
function drawStart(random: Prng): number {
  const segment = random.int(1, 3) * WAL_SEGMENT_SIZE
  const place = random.int(0, 4)
  if (place === 0) return segment
  if (place === 1) return segment + WAL_SEGMENT_SIZE - random.pick([8, 120, 8192, 100_000])
  if (place === 2) return segment + random.int(1, 100) * WAL_PAGE_SIZE
  const lsn = segment + random.int(1, 1_000_000) * 8
  return walPageOffset(lsn) < 40 ? lsn + 40 : lsn
}
