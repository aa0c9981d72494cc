/**
 * Splits tenants by their size: asks pageservers now and then how large tenants are, and begins what
 * `autosplit-plan.ts` decides. One split at a time; whoever comes after a crash goes on with it, as
 * with one that was asked for.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { SplitPolicyChange, SplitPolicyInfo } from '#libs/api/autosplit.ts'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { parseTenantShardId, shardNumberOf, wholeTenant } from '#libs/sharding.ts'
import type { NodeRecord, TenantRecord } from '../records.ts'
import { addressOf, type Registry } from '../registry.ts'
import { pageserverApi } from '../remote.ts'
import { planSplit, type SplitPolicy, shardLimit, wantedShards } from './autosplit-plan.ts'
import type { PageserverHealth } from './pageserver-health.ts'
import type { Splits } from './splits.ts'

/** After a split its size is spread, and layers are written anew: nothing is urgent. */
const COOL_DOWN_MS = 600_000
/** A tenant whose split was refused, as while a branch is imported, is left alone for so long. */
const REFUSED_REST_MS = 60_000
const FIRST_LOOK_MS = 3_000

export interface AutosplitOptions {
  registry: Registry
  splits: Pick<Splits, 'begin'>
  health: Pick<PageserverHealth, 'answers'>
  log: Logger
  /** Of tenants that say nothing else; null: they are not split by themselves. */
  shardBytes: number | null
  pauseMs: number
}

export class Autosplit {
  readonly #options: AutosplitOptions
  /** All relations of the largest branch, by tenant, as of the last look. */
  #sizes: ReadonlyMap<string, number> = new Map()
  readonly #refused = new Map<string, { untilMs: number; reason: string }>()
  readonly #stop = new AbortController()
  #begun = 0
  #done: Promise<void> | null = null

  constructor(options: AutosplitOptions) {
    this.#options = options
  }

  start(): void {
    this.#done ??= this.#loop()
  }

  /** Nothing is lost by letting go of a question under way. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.race([this.#done, sleep(200)])
  }

  /** Splits that were begun since the start. */
  get begun(): number {
    return this.#begun
  }

  /** Bytes of the largest shard's part of its largest branch, as of the last look. */
  async largestShardBytes(): Promise<number> {
    const tenants = await this.#options.registry.tenants()
    return Math.max(0, ...tenants.map((one) => this.#shardBytesOf(one) ?? 0))
  }

  async get(tenantId: string): Promise<SplitPolicyInfo> {
    const tenant = await this.#options.registry.tenant(tenantId)
    const policy = this.#policyOf(tenant)
    const pageservers = (await this.#targets()).length
    const shards = Math.max(tenant.shardCount, 1)
    const largestBytes = this.#sizes.get(tenantId) ?? null
    return {
      ...policy,
      shards,
      pageserverIds: tenant.placements.map(({ pageserverId }) => pageserverId),
      largestBytes,
      mostShards: shardLimit(policy, pageservers),
      wantedShards: wantedShards({ shards, largestBytes, policy }, pageservers),
      lastSplit: tenant.lastSplit ?? null,
    }
  }

  /** Durable when this resolves; what is left out stays. */
  async set(tenantId: string, change: SplitPolicyChange): Promise<SplitPolicyInfo> {
    const { registry } = this.#options
    await registry.tenant(tenantId)
    const { shardBytes, maxShards } = change
    await registry.changeTenant(tenantId, (tenant) => ({
      ...tenant,
      autosplit: {
        ...tenant.autosplit,
        ...(shardBytes === undefined ? {} : { shardBytes }),
        ...(maxShards === undefined ? {} : { maxShards }),
      },
    }))
    return this.get(tenantId)
  }

  /** One look: asks how large tenants are, and begins one split at the most. */
  async round(nowMs = Date.now()): Promise<void> {
    const { registry, splits, log } = this.#options
    const targets = await this.#targets()
    const tenants = await registry.tenants()
    this.#sizes = await this.#measure(tenants)
    const planned = planSplit(
      tenants.map((tenant) => ({
        tenantId: tenant.tenantId,
        shards: Math.max(tenant.shardCount, 1),
        largestBytes: this.#sizes.get(tenant.tenantId) ?? null,
        policy: this.#policyOf(tenant),
        isBusy:
          tenant.state !== 'active' ||
          tenant.placements.some(({ move }) => move !== undefined) ||
          nowMs < (this.#refused.get(tenant.tenantId)?.untilMs ?? 0),
        lastSplitMs: tenant.lastSplit === undefined ? null : Date.parse(tenant.lastSplit.startedAt),
      })),
      {
        nowMs,
        pageservers: targets.length,
        isSplitting: tenants.some(({ split }) => split !== undefined),
        coolDownMs: COOL_DOWN_MS,
      },
    )
    if (planned === null) return
    const { tenantId, shards } = planned
    const largestBytes = this.#sizes.get(tenantId)
    try {
      await splits.begin(tenantId, { shards, bySize: true })
      this.#begun++
      this.#refused.delete(tenantId)
      log.info({ tenantId, shards, largestBytes }, 'a tenant is split, as it is large')
    } catch (error) {
      const reason = errorMessage(error)
      const isKnown = this.#refused.get(tenantId)?.reason === reason
      this.#refused.set(tenantId, { untilMs: nowMs + REFUSED_REST_MS, reason })
      // Once, and not every minute.
      if (isKnown) return
      log.warn({ tenantId, shards, largestBytes, reason }, 'a large tenant is not split yet')
    }
  }

  async #loop(): Promise<void> {
    const { pauseMs, log } = this.#options
    const { signal } = this.#stop
    // Soon after the start, when it is known who answers, for those who want to see sizes.
    for (let restMs = Math.min(pauseMs, FIRST_LOOK_MS); ; restMs = pauseMs) {
      await sleep(restMs, undefined, { signal }).catch(() => undefined)
      if (signal.aborted) return
      await this.round().catch((error: unknown) =>
        log.warn({ reason: errorMessage(error) }, 'how large tenants are is not known this time'),
      )
    }
  }

  /** Each shard knows the sizes of all relations, so any of them will do. */
  async #measure(tenants: readonly TenantRecord[]): Promise<Map<string, number>> {
    const counts = new Map(tenants.map(({ tenantId, shardCount }) => [tenantId, shardCount]))
    const sizes = new Map<string, number>()
    const answers = await Promise.all((await this.#targets(true)).map(askSizes))
    for (const { tenantId, largestBytes } of answers.flat()) {
      const id = parseTenantShardId(tenantId)
      const whole = wholeTenant(id)
      if (largestBytes === null || counts.get(whole) !== (shardNumberOf(id)?.count ?? 0)) continue
      sizes.set(whole, Math.max(sizes.get(whole) ?? 0, largestBytes))
    }
    return sizes
  }

  /** Pageservers that answer and take tenants; or all that answer. */
  async #targets(andOthers = false): Promise<NodeRecord[]> {
    const { registry, health } = this.#options
    const nodes = await registry.nodes('pageserver')
    return nodes.filter(({ id, state }) => (andOthers || state === undefined) && health.answers(id))
  }

  #policyOf({ autosplit = {} }: TenantRecord): SplitPolicy {
    const { shardBytes = this.#options.shardBytes, maxShards = null } = autosplit
    return { shardBytes, maxShards }
  }

  #shardBytesOf({ tenantId, shardCount }: TenantRecord): number | null {
    const size = this.#sizes.get(tenantId)
    return size === undefined ? null : size / Math.max(shardCount, 1)
  }
}

/** One that does not answer tells nothing. */
function askSizes(node: NodeRecord) {
  return pageserverApi.tenants(addressOf(node)).catch(() => [])
}
