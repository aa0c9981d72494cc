/**
 * Spreads the shards of tenants that were split over the pageservers, by moves like any other. That it
 * is to be done is in the tenant's record until it is; a move or its end by hand takes that away.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import type { Registry } from '../registry.ts'
import type { Moves } from './moves.ts'
import type { PageserverHealth } from './pageserver-health.ts'
import { loadOf } from './placing.ts'
import { withoutSpread } from './split-changes.ts'
import { planSpread } from './spread-plan.ts'

const POLL_MS = 200
const RETRY_MS = 3_000

export interface SpreadsOptions {
  registry: Registry
  moves: Pick<Moves, 'begin'>
  health: Pick<PageserverHealth, 'answers'>
  log: Logger
}

export class Spreads {
  readonly #options: SpreadsOptions
  readonly #running = new Set<string>()
  /** Why it does not get on, by tenant. */
  readonly #problems = new Map<string, string>()
  readonly #stop = new AbortController()

  constructor(options: SpreadsOptions) {
    this.#options = options
  }

  /** Takes up all tenants that are to be spread, in the background. */
  async resume(): Promise<void> {
    for (const { tenantId, spread } of await this.#options.registry.tenants()) {
      if (spread !== undefined) this.#drive(tenantId)
    }
  }

  /** What keeps a tenant from being spread; null when nothing does. */
  problem(tenantId: string): string | null {
    return this.#problems.get(tenantId) ?? null
  }

  /** Its shards stay where they are; a move of one that is under way goes on. */
  async giveUp(tenantId: string): Promise<void> {
    await this.#options.registry.tenant(tenantId)
    await this.#options.registry.changeTenant(tenantId, withoutSpread)
  }

  stop(): void {
    this.#stop.abort()
  }

  #drive(tenantId: string): void {
    const { signal } = this.#stop
    if (this.#running.has(tenantId) || signal.aborted) return
    this.#running.add(tenantId)
    this.#run(tenantId, signal)
      .catch((error: unknown) => this.#note(tenantId, errorMessage(error)))
      .finally(() => this.#running.delete(tenantId))
  }

  async #run(tenantId: string, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const pauseMs = await this.#step(tenantId).catch((error: unknown) => {
        this.#note(tenantId, errorMessage(error))
        return RETRY_MS
      })
      if (pauseMs === null) return
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined)
    }
  }

  /** How long to wait before the next one, in milliseconds; null: there is none. */
  async #step(tenantId: string): Promise<number | null> {
    const { registry, moves, health, log } = this.#options
    const tenant = (await registry.findTenant(tenantId))?.value
    if (tenant?.spread === undefined || tenant.state !== 'active') {
      this.#problems.delete(tenantId)
      return null
    }
    // It goes on when the split has ended.
    if (tenant.split !== undefined) return RETRY_MS
    const nodes = (await registry.nodes('pageserver')).filter(({ state }) => state === undefined)
    const targets = nodes.filter(({ id }) => health.answers(id)).map(({ id }) => id)
    const step = planSpread(tenant.placements, targets, await loadOf(registry))
    switch (step.kind) {
      case 'wait':
        return POLL_MS
      case 'move': {
        const { shard, from, to } = step
        log.info({ tenantId, shard, from, to }, 'a shard moves, so that they are spread')
        await moves.begin(tenantId, shard, to)
        this.#problems.delete(tenantId)
        return POLL_MS
      }
      case 'done': {
        const silent = nodes.filter(({ id }) => !targets.includes(id)).map(({ id }) => id)
        if (silent.length > 0) {
          this.#note(tenantId, `pageserver ${silent.join(', ')} does not answer`)
          return RETRY_MS
        }
        await registry.changeTenant(tenantId, withoutSpread)
        this.#problems.delete(tenantId)
        log.info({ tenantId }, 'the shards of a tenant are spread')
        return null
      }
    }
  }

  /** Once, and not at every look. */
  #note(tenantId: string, reason: string): void {
    if (this.#problems.get(tenantId) === reason) return
    this.#problems.set(tenantId, reason)
    this.#options.log.warn({ tenantId, reason }, 'shards are not spread yet')
  }
}
