/**
 * Settings of endpoints. There are two kinds, as in stock Postgres: what the owner chose, for
 * postgresql.conf, and what ALTER SYSTEM has set, for postgresql.auto.conf, which wins. Both are
 * kept here, since a compute's own files are made anew at each start.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type {
  EndpointInfo,
  Settings,
  SettingsAnswer,
  SettingsChange,
} from '#libs/api/endpoint-info.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { type Endpoints, infoOf } from './endpoints.ts'
import { type EndpointRecord, recordKey } from './records.ts'
import type { Registry } from './registry.ts'
import { computeApi } from './remote.ts'
import { checkSettings } from './setting-check.ts'

const RETRIES = 3
const RETRY_MS = 200

export class EndpointSettings {
  readonly #registry: Registry
  readonly #endpoints: Endpoints
  readonly #log: Logger

  constructor(options: { registry: Registry; endpoints: Endpoints; log: Logger }) {
    this.#registry = options.registry
    this.#endpoints = options.endpoints
    this.#log = options.log
  }

  /**
   * Checks and stores a change, then tells a running compute. Throws `invalid_argument` with
   * Postgres' own words for a name or value that it refuses, and stores nothing then.
   */
  async change(tenantId: string, name: string, change: SettingsChange): Promise<SettingsAnswer> {
    await checkSettings(change.set ?? {})
    const before = await this.#endpoints.get(tenantId, name)
    const key = recordKey.endpoint(tenantId, name)
    const record = await this.#registry.change<EndpointRecord>(key, (current) =>
      changed(current, change),
    )
    const { httpPort, host, status } = before
    const endpoint = infoOf(record)
    if (status !== 'running' || httpPort === null) {
      return { endpoint, applied: false, restartNeeded: [] }
    }
    const told = { ...touchedBy(change), settings: endpoint.settings }
    const answer = await this.#tell(() => computeApi.changeSettings(host, httpPort, told))
    if (answer !== null) return { endpoint, applied: true, ...answer }
    return { endpoint, applied: false, restartNeeded: Object.keys(change.set ?? {}) }
  }

  /** What ALTER SYSTEM has set. Throws `conflict` for a compute that is not the current one. */
  async storeSystem(
    tenantId: string,
    name: string,
    { attempt, settings }: { attempt: number; settings: Settings },
  ): Promise<EndpointInfo> {
    await this.#registry.endpoint(tenantId, name)
    const key = recordKey.endpoint(tenantId, name)
    const record = await this.#registry.change<EndpointRecord>(key, (current) => {
      if (current.attempt === attempt) return { ...current, systemSettings: settings }
      throw new ZenithError('conflict', `Endpoint "${name}" has been started again meanwhile.`)
    })
    return infoOf(record)
  }

  /** What was stored holds from the next start on at the latest, so a failure here is not one. */
  async #tell<T>(call: () => Promise<T>): Promise<T | null> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await call()
      } catch (error) {
        this.#log.warn({ reason: errorMessage(error) }, 'a compute did not take its new settings')
        if (attempt === RETRIES) return null
        await sleep(RETRY_MS)
      }
    }
  }
}

/** The record after a change. The later word wins, so what ALTER SYSTEM said of a name is dropped. */
export function changed(record: EndpointRecord, change: SettingsChange): EndpointRecord {
  const { touched, resetAll } = touchedBy(change)
  const names = new Set(touched)
  const rest = (settings: Settings = {}): Settings =>
    resetAll
      ? {}
      : Object.fromEntries(Object.entries(settings).filter(([name]) => !names.has(name)))
  const set = Object.entries(change.set ?? {}).map(([name, value]) => [name.toLowerCase(), value])
  return {
    ...record,
    settings: { ...rest(record.settings), ...Object.fromEntries(set) },
    systemSettings: rest(record.systemSettings),
  }
}

function touchedBy(change: SettingsChange): { touched: string[]; resetAll: boolean } {
  const names = [...Object.keys(change.set ?? {}), ...(change.reset ?? [])]
  return { touched: names.map((name) => name.toLowerCase()), resetAll: change.resetAll === true }
}
