/**
 * How large the cluster of a branch may become: a property of its tenant. Postgres itself holds to
 * it (`pgxn/zenith/cluster_limit.c`), so each compute that writes is told, at its start by its spec and
 * later when it changes.
 */
import type { SizeLimit, StoredSizeLimit } from '#libs/api/size-limit.ts'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { isActive, modeOf } from './endpoint-state.ts'
import type { EndpointRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { computeApi } from './remote.ts'

export class SizeLimits {
  readonly #registry: Registry
  readonly #log: Logger
  /** What a compute is known to have, by endpoint: its attempt and the limit. */
  readonly #known = new Map<string, string>()

  constructor(options: { registry: Registry; log: Logger }) {
    this.#registry = options.registry
    this.#log = options.log
  }

  async get(tenantId: string): Promise<SizeLimit> {
    const { maxBytes = null } = await this.#registry.tenant(tenantId)
    return { maxBytes }
  }

  /** Durable when this resolves. A compute that cannot be told now is told by `resume`. */
  async set(tenantId: string, { maxBytes }: SizeLimit): Promise<StoredSizeLimit> {
    await this.#registry.tenant(tenantId)
    await this.#registry.changeTenant(tenantId, (current) => ({ ...current, maxBytes }))
    return { maxBytes, behind: await this.#tell(tenantId, maxBytes) }
  }

  /** Tells computes that have another limit: one that was starting while it was set, say. */
  async resume(): Promise<void> {
    for (const { tenantId, maxBytes = null } of await this.#registry.tenants()) {
      await this.#tell(tenantId, maxBytes)
    }
  }

  /** Names of the endpoints that could not be told. */
  async #tell(tenantId: string, maxBytes: number | null): Promise<string[]> {
    const writers = (await this.#registry.endpoints(tenantId)).filter(
      (one) => modeOf(one) === 'primary' && isActive(one.status),
    )
    const told = await Promise.all(writers.map((one) => this.#tellOne(one, maxBytes)))
    return writers.filter((_, index) => !told[index]).map(({ name }) => name)
  }

  async #tellOne(endpoint: EndpointRecord, maxBytes: number | null): Promise<boolean> {
    const { tenantId, name, attempt, host, httpPort } = endpoint
    const key = `${tenantId}/${name}`
    const wanted = `${attempt} ${maxBytes}`
    if (this.#known.get(key) === wanted) return true
    if (httpPort === null) return false
    try {
      const { sizeLimitBytes } = await computeApi.status(host, httpPort)
      if (sizeLimitBytes !== maxBytes) await computeApi.setSizeLimit(host, httpPort, maxBytes)
      this.#known.set(key, wanted)
      return true
    } catch (error) {
      const reason = errorMessage(error)
      this.#log.debug({ endpoint: name, reason }, 'a compute could not be told the size limit')
      return false
    }
  }
}
