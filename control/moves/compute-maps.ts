/**
 * Looks now and then whether each compute reads where its tenant is. A move or a split tells all of
 * them, but one that was slow to start then, or that was told by two at once, may have missed it; it
 * would ask the pageserver that was left for ever.
 */
import { isDeepStrictEqual } from 'node:util'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { isActive } from '../endpoint-state.ts'
import type { EndpointRecord } from '../records.ts'
import type { Registry } from '../registry.ts'
import { computeApi } from '../remote.ts'
import { servingMapOf } from './move-run.ts'

export class ComputeMaps {
  readonly #registry: Registry
  readonly #log: Logger
  /** What a compute was seen to have, by endpoint: its attempt and the map. */
  readonly #known = new Map<string, string>()

  constructor({ registry, log }: { registry: Registry; log: Logger }) {
    this.#registry = registry
    this.#log = log
  }

  /** One look at all computes; only those are asked of which it is not known. */
  async resume(): Promise<void> {
    const active = (await this.#registry.endpoints()).filter(({ status }) => isActive(status))
    for (const [tenantId, endpoints] of Map.groupBy(active, (one) => one.tenantId)) {
      if ((await this.#registry.findTenant(tenantId)) === null) continue
      await Promise.all(endpoints.map((endpoint) => this.#check(endpoint)))
    }
    const names = new Set(active.map(keyOf))
    for (const key of this.#known.keys()) if (!names.has(key)) this.#known.delete(key)
  }

  async #check(endpoint: EndpointRecord): Promise<void> {
    const { tenantId, name, attempt, host, httpPort } = endpoint
    if (httpPort === null) return
    const wanted = await servingMapOf(this.#registry, tenantId)
    const seen = `${attempt} ${JSON.stringify(wanted)}`
    if (this.#known.get(keyOf(endpoint)) === seen) return
    try {
      const status = await computeApi.status(host, httpPort)
      if (status.endpoint !== name || status.attempt !== attempt) return
      if (!isDeepStrictEqual(status.map, wanted)) {
        // It may have been told meanwhile of a change that is newer than what we read.
        if (!isDeepStrictEqual(await servingMapOf(this.#registry, tenantId), wanted)) return
        await computeApi.setPageservers(host, httpPort, wanted)
        this.#log.info({ tenantId, endpoint: name }, 'a compute is told where its tenant is')
      }
      this.#known.set(keyOf(endpoint), seen)
    } catch (error) {
      const reason = errorMessage(error)
      this.#log.debug({ endpoint: name, reason }, 'a compute could not be asked where it reads')
    }
  }
}

function keyOf({ tenantId, name }: EndpointRecord): string {
  return `${tenantId}/${name}`
}
