/**
 * Tells pageservers what history must be kept: how much, for each tenant, after each time that it was
 * attached and when it is changed; the LSN of each static endpoint that is active, as a lease; how far
 * each replica is, as a horizon. Leases last many rounds, so that some may fail.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { Semaphore } from '#libs/semaphore.ts'
import { isActive, modeOf, startIsOverdue } from './endpoint-state.ts'
import { historyOf } from './history.ts'
import { pageserverHistory } from './pageserver-history.ts'
import { holdersOf, onEach, type Place, servingPlacesIn } from './places.ts'
import type { EndpointRecord, TenantRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { computeApi } from './remote.ts'

const ROUND_MS = 20_000
/** Tenants that pageservers are told of at the same time. */
const AT_ONCE = 16

export class HistoryKeeper {
  readonly #registry: Registry
  readonly #log: Logger
  readonly #roundMs: number
  readonly #stop = new AbortController()
  /** What was told last, by tenant and pageserver. */
  readonly #told = new Map<string, string>()
  #done: Promise<void> | null = null
  #wake: (() => void) | null = null

  constructor(options: { registry: Registry; log: Logger; roundMs?: number | undefined }) {
    this.#registry = options.registry
    this.#log = options.log
    this.#roundMs = options.roundMs ?? ROUND_MS
  }

  start(): void {
    this.#done = this.#loop()
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    this.#wake?.()
    // Nothing is lost by letting go of a request under way.
    await Promise.race([this.#done, sleep(200)])
  }

  /** Begins a round at once. */
  wake(): void {
    this.#wake?.()
  }

  /** One round; what fails is tried again in the next one. */
  async round(): Promise<void> {
    const endpoints = (await this.#registry.endpoints()).filter(({ status }) => isActive(status))
    const tenants = (await this.#registry.tenants()).filter(({ state }) => state === 'active')
    // A pageserver that does not answer holds up nobody else.
    const limit = new Semaphore(AT_ONCE)
    await Promise.all([
      ...endpoints.map((endpoint) =>
        this.#renew(endpoint).catch((error: unknown) => this.#missed(endpoint.name, error)),
      ),
      ...tenants.map((tenant) =>
        limit
          .run(() => this.#tell(tenant))
          .catch((error: unknown) => this.#missed(tenant.tenantId, error)),
      ),
    ])
  }

  async #loop(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      await this.round().catch((error: unknown) => this.#missed('all', error))
      if (signal.aborted) return
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, this.#roundMs)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  async #tell(tenant: TenantRecord): Promise<void> {
    const { tenantId, placements } = tenant
    const settings = historyOf(tenant)
    // A pageserver that has it attached anew has a higher generation, and has forgotten.
    const telling = JSON.stringify([settings, placements.map(({ generation }) => generation)])
    for (const node of await holdersOf(this.#registry, tenantId)) {
      const key = `${tenantId}/${node.shard}/${node.id}`
      if (this.#told.get(key) === telling) continue
      await pageserverHistory.configure(node, tenantId, settings)
      this.#told.set(key, telling)
    }
  }

  async #renew(endpoint: EndpointRecord): Promise<void> {
    const mode = modeOf(endpoint)
    if (mode === 'primary') return
    const lsn = await positionOf(endpoint)
    if (lsn === null) return
    // During a move also the one that takes over, which may be the one that is read from next.
    const holders = await holdersOf(this.#registry, endpoint.tenantId)
    await onEach(holders, (node) => keepFor(node, endpoint, lsn))
  }

  #missed(what: string, error: unknown): void {
    this.#log.warn({ what, reason: errorMessage(error) }, 'history is not renewed this time')
  }
}

/**
 * Keeps what the endpoint needs to be started now. Throws `out_of_range` for a static one whose LSN
 * is gone.
 */
export async function keepForStart(registry: Registry, endpoint: EndpointRecord): Promise<void> {
  const mode = modeOf(endpoint)
  if (mode === 'primary') return
  const places = await servingPlacesIn(registry, await registry.tenant(endpoint.tenantId))
  try {
    await onEach(places, (place) => keepFor(place, endpoint, endpoint.readLsn ?? null))
  } catch (error) {
    if (!(error instanceof ZenithError) || error.code !== 'out_of_range') throw error
    throw new ZenithError(
      'out_of_range',
      `Endpoint "${endpoint.name}" cannot be started: ${error.message}.`,
      { hint: 'It shows a state that is not kept any more; make one for a later state.' },
    )
  }
}

async function keepFor(node: Place, endpoint: EndpointRecord, lsn: string | null): Promise<void> {
  const { tenantId, timelineId, name } = endpoint
  const params = { tenantId, timelineId }
  if (modeOf(endpoint) === 'replica') {
    const holder = `endpoint/${name}`
    await pageserverHistory.holdHorizon(node, params, lsn === null ? { holder } : { holder, lsn })
  } else if (lsn !== null) await pageserverHistory.lease(node, params, lsn)
}

/** Where the compute reads; null for one that is gone, or has not said yet. */
async function positionOf(endpoint: EndpointRecord): Promise<string | null> {
  const fixed = endpoint.readLsn ?? null
  if (endpoint.httpPort === null) return startIsOverdue(endpoint, new Date()) ? null : fixed
  try {
    const status = await computeApi.status(endpoint.host, endpoint.httpPort)
    if (status.timelineId !== endpoint.timelineId || status.attempt !== endpoint.attempt)
      return null
    return fixed ?? status.commitLsn
  } catch (error) {
    // One that does not answer in time may be there all the same.
    return error instanceof ZenithError && error.code === 'unavailable' ? null : fixed
  }
}
