/**
 * Collects the garbage of all timelines in turn, again and again. A tenant rests for a while after
 * it was attached: leases above the cutoff are in memory only, and their holders must have had the
 * time to ask for them again.
 */
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import type { Tenant } from '../tenants/tenant.ts'
import type { Collected } from './collector.ts'
import type { GcMetrics } from './gc-metrics.ts'
import type { HistorySettings } from './settings.ts'

/** How often in the time of a rest it is seen whether the control plane answers. */
const LOOKS_PER_REST = 10
const MIN_LOOK_MS = 100

export interface GarbageCollectorOptions {
  tenants: () => readonly Tenant[]
  periodMs: number
  /** How long a tenant rests after it was attached; at least as long as a lease. */
  restMs: number
  /**
   * Asks the control plane whether the tenant is still ours. While it does not answer nobody renews
   * leases either, so nothing is removed then, nor for the time of a rest after that. That it did not
   * answer is noticed between collections, too: leases may lapse and it be back before the next one.
   */
  confirm: (tenant: Tenant) => Promise<boolean>
  log: Logger
  metrics: GcMetrics
}

export class GarbageCollector {
  readonly #options: GarbageCollectorOptions
  readonly #timer: NodeJS.Timeout
  readonly #lookTimer: NodeJS.Timeout
  #lookedAtMs = performance.now()
  #round: Promise<void> | null = null
  #stopped = false
  /** Monotonic; nothing is removed before. */
  #restUntilMs = 0

  constructor(options: GarbageCollectorOptions) {
    this.#options = options
    this.#timer = setInterval(() => {
      this.#round ??= this.#collectAll().finally(() => {
        this.#round = null
      })
    }, options.periodMs)
    this.#timer.unref()
    const lookMs = Math.max(options.restMs / LOOKS_PER_REST, MIN_LOOK_MS)
    this.#lookTimer = setInterval(() => void this.#look(), lookMs)
    this.#lookTimer.unref()
  }

  /** Resolves when nothing is under way. */
  async stop(): Promise<void> {
    this.#stopped = true
    clearInterval(this.#timer)
    clearInterval(this.#lookTimer)
    await this.#round
  }

  /**
   * Collects one timeline now; what `asked` leaves out is as the tenant is set. Throws `unavailable`
   * while the tenant rests, or while the control plane has not said how much history it keeps.
   */
  async collect(
    tenant: Tenant,
    timelineId: TimelineId,
    asked: { pitrIntervalMs?: number | undefined; pitrBytes?: number | null | undefined } = {},
  ): Promise<Collected> {
    const obstacle = this.#obstacle(tenant) ?? (await this.#unconfirmed(tenant))
    if (obstacle !== null) {
      throw new ZenithError(
        'unavailable',
        `no garbage of tenant ${tenant.tenantId} is collected yet: ${obstacle}`,
        { hint: 'Try again later; it is done by itself, too.' },
      )
    }
    const set = tenant.history as HistorySettings
    const result = await tenant.collectGarbage(timelineId, {
      pitrIntervalMs: asked.pitrIntervalMs ?? set.pitrIntervalMs,
      pitrBytes: asked.pitrBytes === undefined ? set.pitrBytes : asked.pitrBytes,
    })
    this.#options.metrics.collected(result)
    if (result.removedLayers > 0) {
      const { removedLayers, removedBytes } = result
      this.#options.log.info({ timelineId, removedLayers, removedBytes }, 'collected garbage')
    }
    return result
  }

  #obstacle(tenant: Tenant): string | null {
    const nowMs = performance.now()
    const restMs = tenant.attachedAtMs + this.#options.restMs - nowMs
    if (restMs > 0)
      return `it was attached a moment ago and rests for ${Math.ceil(restMs / 1000)} s`
    if (this.#restUntilMs > nowMs) return 'the control plane did not answer a moment ago'
    if (tenant.history === null) return 'the control plane has not said how much history it keeps'
    return tenant.gcObstacle
  }

  /** Any tenant of ours will do: the answer is the same, that there is somebody who answers. */
  async #look(): Promise<void> {
    const nowMs = performance.now()
    // This process was stopped for so long that nobody could renew anything.
    if (nowMs - this.#lookedAtMs > this.#options.restMs / 2) this.#rest()
    this.#lookedAtMs = nowMs
    const tenant = this.#options.tenants().find(({ attachment }) => attachment.mode === 'attached')
    if (tenant !== undefined) await this.#unconfirmed(tenant)
  }

  #rest(): void {
    this.#restUntilMs = performance.now() + this.#options.restMs
  }

  async #unconfirmed(tenant: Tenant): Promise<string | null> {
    try {
      return (await this.#options.confirm(tenant)) ? null : 'another page server has it now'
    } catch (error) {
      this.#rest()
      return `the control plane does not answer (${errorMessage(error)})`
    }
  }

  async #collectAll(): Promise<void> {
    for (const tenant of this.#options.tenants()) {
      if (this.#obstacle(tenant) !== null) continue
      for (const { timelineId } of tenant.timelines()) {
        if (this.#stopped) return
        await this.collect(tenant, timelineId).catch((error: unknown) => {
          this.#options.metrics.failed()
          const { tenantId } = tenant
          const reason = errorMessage(error)
          this.#options.log.warn({ tenantId, timelineId, reason }, 'garbage collection failed')
        })
      }
    }
  }
}
