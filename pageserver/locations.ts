/**
 * How this page server holds each tenant: as the control plane says, one change at a time for each.
 *
 *   attached, multi, stale   it serves the tenant (tenants/attachment.ts: what it may write)
 *   secondary                it keeps copies of the primary's layer files (secondary/)
 *   detached                 nothing of the tenant is left here
 *
 * Every change is safe to repeat, and to be cut short by a crash: local files are a cache, and after
 * a restart the control plane tells anew what is ours.
 */
import { readdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { ReAttachResponse } from '#libs/api/nodes.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import type {
  Heatmap,
  LocationInfo,
  LocationMode,
  LocationRequest,
} from '#libs/api/pageserver-location.ts'
import { ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn } from '#libs/lsn.ts'
import { parseTenantShardId } from '#libs/sharding.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { localFolder } from './remote/paths.ts'
import { heatmapOf } from './secondary/heatmap.ts'
import { Secondary } from './secondary/secondary.ts'
import type { SplitParent } from './tenants/split.ts'
import type { Tenant } from './tenants/tenant.ts'
import type { TimelineService } from './timeline-service.ts'

const HEATMAP_TIMEOUT_MS = 10_000

export interface LocationsOptions {
  service: TimelineService
  /** Data folder of the page server. */
  folder: string
  store: ObjectStore
  log: Logger
}

interface Warm {
  primary: { host: string; httpPort: number }
  secondary: Secondary
}

export class Locations {
  readonly #options: LocationsOptions
  readonly #service: TimelineService
  readonly #warm = new Map<TenantId, Warm>()
  readonly #changing = new Map<TenantId, Promise<unknown>>()

  constructor(options: LocationsOptions) {
    this.#options = options
    this.#service = options.service
  }

  /**
   * Holds the tenant as asked. Throws `fenced` for a generation below the one that is attached, and
   * `invalid_argument` when the request lacks what its mode needs.
   */
  set(tenantId: TenantId, request: LocationRequest): Promise<LocationInfo> {
    const before = this.#changing.get(tenantId) ?? Promise.resolve()
    const change = before
      .catch(() => undefined)
      .then(async () => {
        await this.#set(tenantId, request)
        return this.info(tenantId)
      })
    this.#changing.set(tenantId, change)
    return change
  }

  info(tenantId: TenantId): LocationInfo {
    const tenant = this.#service.findTenant(tenantId)
    const warm = this.#warm.get(tenantId)
    return {
      tenantId,
      mode: tenant?.attachment.mode ?? (warm ? 'secondary' : 'detached'),
      generation: tenant?.generation ?? null,
      timelines: (tenant?.timelines() ?? []).map(({ timelineId, lastRecordLsn }) => ({
        timelineId,
        lastRecordLsn: formatLsn(lastRecordLsn),
      })),
      secondary: warm?.secondary.info ?? null,
      broken: tenant?.brokenTimelines ?? [],
    }
  }

  /** Throws `not_found` for a tenant that is not served here. */
  async heatmap(tenantId: TenantId): Promise<Heatmap> {
    return heatmapOf(this.#served(tenantId).timelines())
  }

  /** Brings all of the tenant to object storage, so that another page server has little to read. */
  async flush(tenantId: TenantId): Promise<LocationInfo> {
    const tenant = this.#served(tenantId)
    if (tenant.attachment.mayWrite) {
      await Promise.all(tenant.timelines().map((timeline) => timeline.flush()))
    }
    return this.info(tenantId)
  }

  /** At a start: what is left of tenants that are not ours any more goes; secondaries begin. */
  async begin({ tenants, secondaries = [] }: ReAttachResponse): Promise<void> {
    const ours = new Set([...tenants, ...secondaries].map(({ tenantId }) => tenantId))
    const parent = dirname(this.#tenantFolder('_' as TenantId))
    for (const name of await readdir(parent).catch(() => [])) {
      // A shard is a tenant of its own here, with its numbers behind the tenant's id.
      if (!/^[0-9a-f]{32}/.test(name) || ours.has(name)) continue
      this.#options.log.info({ folder: name }, 'removing what is left of a tenant that has moved')
      await rm(join(parent, name), { recursive: true, force: true })
    }
    for (const { tenantId, primary } of secondaries) {
      this.#keepWarm(parseTenantShardId(tenantId), primary)
    }
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#warm.values()].map(({ secondary }) => secondary.stop()))
  }

  async #set(tenantId: TenantId, request: LocationRequest): Promise<void> {
    switch (request.mode) {
      case 'secondary': {
        const primary = needed(request.primary, request.mode, 'the primary')
        await this.#service.detach(tenantId)
        return this.#keepWarm(tenantId, primary)
      }
      case 'detached':
        await this.#service.detach(tenantId)
        await this.#stopWarm(tenantId)
        return rm(this.#tenantFolder(tenantId), { recursive: true, force: true })
      case 'attached':
      case 'multi':
      case 'stale': {
        const generation = needed(request.generation, request.mode, 'a generation')
        await this.#stopWarm(tenantId)
        await this.#service.attachAs(tenantId, {
          generation,
          mode: request.mode,
          stripeBlocks: request.stripeBlocks,
          timelines: request.timelines ?? [],
          splitFrom: parentIn(request),
        })
        this.#options.log.info({ tenantId, generation, mode: request.mode }, 'tenant attached')
      }
    }
  }

  #keepWarm(tenantId: TenantId, primary: { host: string; httpPort: number }): void {
    const { host, httpPort } = primary
    const known = this.#warm.get(tenantId)
    if (known) {
      known.primary = { host, httpPort }
      known.secondary.nudge()
      return
    }
    const warm: Warm = {
      primary: { host, httpPort },
      secondary: new Secondary({
        tenantId,
        folder: this.#options.folder,
        store: this.#options.store,
        log: this.#options.log,
        heatmap: () =>
          callPageserver(`http://${warm.primary.host}:${warm.primary.httpPort}`, 'heatmap', {
            params: { tenantId },
            timeoutMs: HEATMAP_TIMEOUT_MS,
          }),
      }),
    }
    this.#warm.set(tenantId, warm)
    warm.secondary.start()
  }

  async #stopWarm(tenantId: TenantId): Promise<void> {
    const warm = this.#warm.get(tenantId)
    await warm?.secondary.stop()
    this.#warm.delete(tenantId)
  }

  #served(tenantId: TenantId): Tenant {
    const tenant = this.#service.findTenant(tenantId)
    if (tenant) return tenant
    throw new ZenithError('not_found', `tenant ${tenantId} is not attached to this page server`)
  }

  /** Above the folder of its timelines. */
  #tenantFolder(tenantId: TenantId): string {
    return dirname(dirname(localFolder(this.#options.folder, tenantId, '_' as TimelineId)))
  }
}

function parentIn({ splitFrom }: LocationRequest): SplitParent | null {
  return splitFrom ? { ...splitFrom, tenantId: parseTenantShardId(splitFrom.tenantId) } : null
}

function needed<T>(value: T | undefined, mode: LocationMode, what: string): T {
  if (value !== undefined) return value
  throw new ZenithError('invalid_argument', `the mode ${mode} needs ${what}`)
}
