/** Runs one `Migration`: performs its effects on the store and the services, and feeds it the answers. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { MemberState } from '#libs/api/safekeeper.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import type { Member } from '#libs/protocol/wal-push.ts'
import { isActive, modeOf, startIsOverdue } from '../endpoint-state.ts'
import { recordKey, type TimelineRecord } from '../records.ts'
import { addressOf, type Registry } from '../registry.ts'
import { holdersOf, onEach } from '../places.ts'
import { computeApi, pageserverApi, safekeeperApi } from '../remote.ts'
import { type SyncContext, syncSafekeepers } from '../safekeeper-sync.ts'
import { type MemberReport, sameMembership } from './membership.ts'
import { membershipOf, withMembership } from './membership-record.ts'
import { Migration, type MigrationEffect, type MigrationEvent } from './migration.ts'

const TICK_MS = 200
/** Between looks when all that is left is to wait for a service that is down. */
const SLOW_TICK_MS = 2_000
/** After so long without news the ticks become slow. */
const FAST_MS = 30_000

type SwapEffect = Extract<MigrationEffect, { kind: 'swap' }>
type PullEffect = Extract<MigrationEffect, { kind: 'pull' }>

export class MigrationRun {
  readonly machine: Migration
  readonly #context: SyncContext
  readonly #registry: Registry
  readonly #target: { tenantId: string; timelineId: string }
  readonly #log: Logger
  readonly #addresses: Map<number, Member>
  readonly #stop = new AbortController()
  #phase: string | null = null
  #movedAtMs = performance.now()

  private constructor(
    context: SyncContext,
    timeline: TimelineRecord,
    addresses: Map<number, Member>,
  ) {
    const { tenantId, timelineId } = timeline
    this.#context = context
    this.#registry = context.registry
    this.#target = { tenantId, timelineId }
    this.#log = context.log.child({ timelineId })
    this.#addresses = addresses
    this.machine = new Migration({ membership: membershipOf(timeline), addresses })
  }

  static async open(context: SyncContext, timeline: TimelineRecord): Promise<MigrationRun> {
    const run = new MigrationRun(context, timeline, new Map())
    await run.#refreshAddresses()
    return run
  }

  /** Works until everything is done, or `stop`. */
  async run(): Promise<void> {
    while (!this.#stop.signal.aborted && this.machine.phase !== 'done') {
      this.feed({ kind: 'tick', nowMs: performance.now() })
      const slow = performance.now() - this.#movedAtMs > FAST_MS
      const options = { signal: this.#stop.signal }
      await sleep(slow ? SLOW_TICK_MS : TICK_MS, undefined, options).catch(() => {})
      if (slow) await this.#refreshAddresses().catch(() => {})
    }
  }

  stop(): void {
    this.#stop.abort()
  }

  feed(event: MigrationEvent): void {
    if (this.#stop.signal.aborted) return
    for (const effect of this.machine.step(event)) {
      this.#perform(effect).then(
        (answer) => this.feed(answer),
        (error: unknown) => this.feed(this.#failure(effect, error)),
      )
    }
    const { phase } = this.machine
    if (phase === this.#phase) return
    this.#phase = phase
    this.#movedAtMs = performance.now()
    const { generation, members, newMembers } = this.machine.membership
    this.#log.info({ phase, generation, members, newMembers }, 'change of the members')
  }

  /** Services may have moved to other ports since. */
  async #refreshAddresses(): Promise<void> {
    for (const node of await this.#registry.nodes('safekeeper')) {
      this.#addresses.set(node.id, addressOf(node))
    }
  }

  #address(id: number): Member {
    const address = this.#addresses.get(id)
    if (address) return address
    throw new ZenithError('not_found', `safekeeper ${id} is not registered.`)
  }

  async #perform(effect: MigrationEffect): Promise<MigrationEvent> {
    if (effect.kind === 'swap') return this.#swap(effect)
    if (effect.kind === 'tell') return this.#tell(effect.safekeepers)
    if (effect.kind === 'elect') return this.#elect()
    const { node } = effect
    const address = this.#address(node)
    if (effect.kind === 'pull') return this.#pull(effect, address)
    if (effect.kind === 'delete') {
      await safekeeperApi.deleteTimeline(address, this.#target, effect.generation)
      return { kind: 'deleted', node }
    }
    let state: MemberState
    if (effect.kind === 'query') state = await safekeeperApi.memberState(address, this.#target)
    else if (effect.kind === 'configure') {
      state = await safekeeperApi.configure(address, this.#target, effect.configuration)
    } else state = await safekeeperApi.bumpTerm(address, this.#target, effect.term)
    return { kind: 'report', node, report: reportOf(state) }
  }

  #failure(effect: MigrationEffect, error: unknown): MigrationEvent {
    const reason = errorMessage(error)
    if (effect.kind === 'swap') return { kind: 'swap-failed' }
    if (effect.kind === 'tell') return { kind: 'not-told', reason }
    if (effect.kind === 'elect') return { kind: 'elected' }
    const { node } = effect
    const code = error instanceof ZenithError ? error.code : 'internal'
    // A newer generation lives there: what was to be deleted is gone already.
    if (effect.kind === 'delete' && code === 'precondition_failed') return { kind: 'deleted', node }
    // A copy that cannot be read is none: it votes for nobody, and is replaced by a whole one.
    const absent = code === 'not_found' || code === 'corrupt'
    return { kind: 'failed', node, absent, reason }
  }

  async #swap({ expected, next }: SwapEffect): Promise<MigrationEvent> {
    const { tenantId, timelineId } = this.#target
    const key = recordKey.timeline(tenantId, timelineId)
    const stored = await this.#registry.change<TimelineRecord>(key, (current) =>
      sameMembership(membershipOf(current), expected) ? withMembership(current, next) : current,
    )
    return { kind: 'record', membership: membershipOf(stored) }
  }

  async #tell(safekeepers: readonly number[]): Promise<MigrationEvent> {
    const addresses = safekeepers.map((id) => this.#address(id))
    await onEach(await holdersOf(this.#registry, this.#target.tenantId), (node) =>
      pageserverApi.setSafekeepers(node, this.#target, addresses),
    )
    await this.#tellReplicas(addresses)
    return { kind: 'told' }
  }

  /** Their Postgres knows no other way. Throws while one may be there and has not been told. */
  async #tellReplicas(addresses: Member[]): Promise<void> {
    const { tenantId, timelineId } = this.#target
    for (const endpoint of await this.#registry.endpoints(tenantId)) {
      if (endpoint.timelineId !== timelineId || modeOf(endpoint) !== 'replica') continue
      if (!isActive(endpoint.status)) continue
      const { name, host, httpPort } = endpoint
      if (httpPort === null) {
        if (startIsOverdue(endpoint, new Date())) continue
        throw new ZenithError('unavailable', `replica "${name}" is just being started`)
      }
      await computeApi.setSafekeepers(host, httpPort, addresses).catch((error: unknown) => {
        const gone = error instanceof ZenithError && error.code === 'unavailable'
        if (!gone) throw error
      })
    }
  }

  /** Not while a compute writes: its own stream brings everybody up, or it is about to be replaced. */
  async #elect(): Promise<MigrationEvent> {
    const { tenantId, timelineId } = this.#target
    const endpoints = await this.#registry.endpoints(tenantId)
    const written = endpoints.some(
      (endpoint) =>
        endpoint.timelineId === timelineId &&
        modeOf(endpoint) === 'primary' &&
        isActive(endpoint.status),
    )
    if (!written) {
      const timeline = await this.#registry.timeline(tenantId, timelineId)
      this.#log.info('no compute writes and new members are behind: syncing safekeepers')
      await syncSafekeepers(this.#context, timeline)
    }
    return { kind: 'elected' }
  }

  async #pull(effect: PullEffect, address: Member): Promise<MigrationEvent> {
    const { node, donors, configuration, minimum } = effect
    const answer = await safekeeperApi.pull(address, this.#target, {
      donors,
      configuration,
      minimum:
        minimum === null
          ? null
          : {
              term: minimum.term,
              lastLogTerm: minimum.position.lastLogTerm,
              flushLsn: formatLsn(minimum.position.flushLsn),
            },
    })
    if (answer.done !== null) return { kind: 'report', node, report: reportOf(answer.done) }
    const { copiedBytes, totalBytes } = answer
    this.#movedAtMs = performance.now()
    return { kind: 'pulling', node, copiedBytes, totalBytes }
  }
}

function reportOf({ generation, term, lastLogTerm, flushLsn }: MemberState): MemberReport {
  return { generation, term, lastLogTerm, flushLsn: parseLsn(flushLsn) }
}
