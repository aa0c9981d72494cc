/**
 * The timelines that this pageserver holds, each with its WAL receiver: attaching tenants, making
 * timelines, and what can be told about them. Storage is below (tenants/), protocols are above
 * (http.ts, page-service/).
 */
import type { WalSource } from '#libs/api/node-info.ts'
import type { ReAttachResponse } from '#libs/api/nodes.ts'
import type { AttachMode } from '#libs/api/attach-mode.ts'
import type {
  AttachedTenant,
  CreatePageserverTimeline,
  ListedTenant,
  PageserverTimeline,
  TimelineMode,
} from '#libs/api/pageserver.ts'
import type { TimelineSources } from '#libs/api/pageserver-location.ts'
import type { DetachedTimeline, TimelineSizes } from '#libs/api/pageserver-lifecycle.ts'
import type { Discovery } from '#libs/discovery/discovery.ts'
import { ZenithError } from '#libs/errors.ts'
import { parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import type { Metrics } from '#libs/metrics.ts'
import type { ControlFile } from '#libs/pg/control-file.ts'
import type { PostgresInstall } from '#libs/postgres-install.ts'
import { parseTenantShardId, wholeTenant } from '#libs/sharding.ts'
import { importDataFolder, importLsn, readClusterControl } from './import/data-folder-import.ts'
import { freshControlFile, type InitdbTemplate, initdbTemplate } from './import/initdb-template.ts'
import { withSharedCluster } from './import/shared-cluster.ts'
import { WalIngest } from './ingest/wal-ingest.ts'
import { KeyClass, PAGE_SIZE } from './keyspace/key-class.ts'
import { sweepFormer } from './tenants/former.ts'
import type { SplitParent } from './tenants/split.ts'
import type { Tenant } from './tenants/tenant.ts'
import { walStartOf } from './remote/manifest.ts'
import type { TenantManager } from './tenants/tenant-manager.ts'
import type { Timeline } from './timeline/timeline.ts'
import type { BranchPlace } from './tenants/detach.ts'
import { type WatchedTimeline, watchTimelines } from './timeline-metrics.ts'
import { createWalReceiverMetrics } from './wal-receiver/metrics.ts'
import { WalReceiver } from './wal-receiver/wal-receiver.ts'

/** How long making a branch waits for the ancestor's WAL. */
const BRANCH_WAIT_MS = 60_000
/** Safekeepers make a new timeline while we do, and have no WAL of it yet. */
const FIRST_ASK_MS = 100
/** How long archiving waits for the last of its WAL. */
const ARCHIVE_WAIT_MS = 60_000
/** Tenants attached at the same time after a start. */
const ATTACH_AT_ONCE = 8

type ReAttachedTenant = ReAttachResponse['tenants'][number]

export interface TimelineIds {
  /** Of a sharded tenant that of the shard, which is a tenant of its own here. */
  tenantId: TenantId
  timelineId: TimelineId
}

export interface TimelineServiceOptions {
  tenants: TenantManager
  postgres: PostgresInstall
  /** Where the initdb template is kept. */
  templateFolder: string
  /** What is needed for a moment; see scratch.ts. */
  scratchFolder: string
  log: Logger
  metrics: Metrics
  /** How safekeepers tell of new WAL; null: they are asked. */
  discovery: Discovery | null
}

export class TimelineService {
  readonly #options: TimelineServiceOptions
  readonly #tenants: TenantManager
  /** By `keyOf`, as several shards of a tenant may be here. */
  readonly #receivers = new Map<string, WalReceiver>()
  readonly #broken = new Map<string, string>()
  readonly #walMetrics
  #template: Promise<InitdbTemplate> | null = null

  constructor(options: TimelineServiceOptions) {
    this.#options = options
    this.#tenants = options.tenants
    this.#walMetrics = createWalReceiverMetrics(options.metrics)
    watchTimelines(options.metrics, () => this.#watched())
  }

  /** Makes the initdb template ahead of the first tenant. */
  prepareTemplate(): Promise<InitdbTemplate> {
    const { postgres, templateFolder: cacheFolder, scratchFolder, log } = this.#options
    const options = { postgres, cacheFolder, scratchFolder, log }
    this.#template ??= initdbTemplate(options).catch((error: unknown) => {
      this.#template = null
      throw error
    })
    return this.#template
  }

  /**
   * Attaches what the control plane says is ours, and starts receiving WAL. A tenant that cannot be
   * attached is logged and left out; it must not keep the others from being served.
   */
  async attachAll(answer: ReAttachResponse, onAttached: () => void): Promise<void> {
    const waiting = [...answer.tenants]
    const work = async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        await this.#attachOne(next).catch((error: unknown) => {
          const { tenantId } = next as ReAttachedTenant
          this.#options.log.error({ err: error, tenantId }, 'a tenant could not be attached')
        })
        onAttached()
      }
    }
    await Promise.all(Array.from({ length: ATTACH_AT_ONCE }, work))
  }

  #attachOne({ tenantId, mode = 'attached', ...rest }: ReAttachedTenant): Promise<void> {
    return this.attachAs(parseTenantShardId(tenantId), { ...rest, mode })
  }

  /** Attaches in a role, and receives WAL for the timelines named. */
  async attachAs(
    tenantId: TenantId,
    how: {
      generation: number
      mode: AttachMode
      /** Of shards only. */
      stripeBlocks?: number | undefined
      timelines: readonly TimelineSources[]
      /** See `TenantManager.attach`. */
      splitFrom?: SplitParent | null
    },
  ): Promise<void> {
    const { generation, stripeBlocks, mode } = how
    await this.attach(tenantId, generation, stripeBlocks, mode, how.splitFrom)
    await this.#tenants.tenant(tenantId).become(how.mode)
    for (const { timelineId, safekeepers } of how.timelines) {
      const ids = { tenantId, timelineId: parseTimelineId(timelineId) }
      if (this.#tenants.tenant(tenantId).lives.archived(ids.timelineId)) continue
      if (this.#find(ids)) this.#receive(ids, safekeepers)
      else this.#options.log.warn(ids, 'a timeline of the control plane is not in storage')
    }
  }

  /** Nothing of the tenant is served or received any more; its local files stay. */
  async detach(tenantId: TenantId): Promise<void> {
    const tenant = this.#tenants.find(tenantId)
    if (!tenant) return
    const timelines = tenant.timelines()
    for (const { timelineId } of timelines) {
      const key = keyOf({ tenantId, timelineId })
      const receiver = this.#receivers.get(key)
      this.#receivers.delete(key)
      await receiver?.stop()
    }
    await this.#tenants.detach(tenantId)
    for (const { timelineId } of timelines) this.#broken.delete(keyOf({ tenantId, timelineId }))
    this.#options.log.info({ tenantId }, 'tenant detached')
  }

  /** Null when it is not attached. */
  findTenant(tenantId: TenantId): Tenant | null {
    return this.#tenants.find(tenantId)
  }

  /**
   * For page streams. Throws `unavailable` for a tenant that is not attached: it has moved, or is
   * about to come, and the client looks where it is by now. `notReady` is why it may yet come.
   */
  servedTimeline(
    tenantId: TenantId,
    timelineId: TimelineId,
    notReady: string | null = null,
  ): Timeline {
    if (this.#tenants.find(tenantId)) return this.timeline({ tenantId, timelineId })
    throw new ZenithError(
      'unavailable',
      notReady === null
        ? `tenant ${tenantId} is not attached to this page server`
        : `the page server is ${notReady}`,
    )
  }

  /**
   * A higher generation opens the timelines anew; their receivers go on with the new ones. Shards
   * are attached with the size of their stripes.
   */
  async attach(
    tenantId: TenantId,
    generation: number,
    stripeBlocks?: number,
    mode?: AttachMode,
    splitFrom: SplitParent | null = null,
  ): Promise<AttachedTenant> {
    const attached = this.#tenants.tenants().find((tenant) => tenant.tenantId === tenantId)
    const reopened = attached && attached.generation < generation ? attached.timelines() : []
    const interrupted: [TimelineIds, readonly WalSource[]][] = []
    for (const { timelineId } of reopened) {
      const key = keyOf({ tenantId, timelineId })
      const receiver = this.#receivers.get(key)
      this.#receivers.delete(key)
      await receiver?.stop()
      if (receiver) interrupted.push([{ tenantId, timelineId }, receiver.safekeepers])
    }
    await this.#tenants.attach(tenantId, generation, undefined, stripeBlocks, mode, splitFrom)
    for (const { timelineId } of reopened) this.#broken.delete(keyOf({ tenantId, timelineId }))
    for (const [ids, safekeepers] of interrupted) this.#receive(ids, safekeepers)
    return { tenantId, generation }
  }

  tenants(): ListedTenant[] {
    return this.#tenants.tenants().map((tenant) => ({
      tenantId: tenant.tenantId,
      generation: tenant.generation,
      largestBytes: largestOf(tenant.timelines()),
    }))
  }

  /** Throws `not_found`. */
  timeline({ tenantId, timelineId }: TimelineIds): Timeline {
    return this.#tenants.tenant(tenantId).timeline(timelineId)
  }

  has(ids: TimelineIds): boolean {
    return this.#find(ids) !== null
  }

  /** As `timeline`, for someone who is about to read at the end of the WAL. */
  useTimeline(ids: TimelineIds): Timeline {
    this.nudge(ids)
    return this.timeline(ids)
  }

  /** Somebody is about to need new WAL of the timeline. */
  nudge(ids: TimelineIds): void {
    this.#receivers.get(keyOf(ids))?.nudge()
  }

  /** Idempotent; a different origin for a timeline that exists is a `conflict`. */
  async createTimeline(
    ids: TimelineIds,
    request: CreatePageserverTimeline,
  ): Promise<PageserverTimeline> {
    const timeline = this.#find(ids) ?? (await this.#create(ids, request.mode))
    checkOrigin(timeline, request.mode)
    this.#receive(ids, request.safekeepers, FIRST_ASK_MS)
    return this.describe(ids, { withSize: false })
  }

  #create(ids: TimelineIds, mode: TimelineMode): Promise<Timeline> {
    if (mode.kind === 'bootstrap') return this.#bootstrap(ids)
    if (mode.kind === 'import') return this.#import(ids, mode.dataDir)
    const ancestorTimelineId = parseTimelineId(mode.ancestorTimelineId)
    // The branch point may be WAL that is still on its way.
    this.useTimeline({ tenantId: ids.tenantId, timelineId: ancestorTimelineId })
    return this.#tenants.branchTimeline(ids.tenantId, ids.timelineId, {
      ancestorTimelineId,
      ancestorLsn: parseLsn(mode.ancestorLsn),
      timeoutMs: BRANCH_WAIT_MS,
    })
  }

  async #bootstrap(ids: TimelineIds): Promise<Timeline> {
    const startedAt = performance.now()
    const shard = this.#tenants.tenant(ids.tenantId).shard?.identity
    const template = await this.prepareTemplate()
    const timeline =
      shard === undefined
        ? await this.#fill(ids, template.folder, await freshControlFile(template), template)
        : await withSharedCluster(
            {
              ...ids,
              shard,
              store: this.#tenants.objectStore,
              template: () => this.prepareTemplate(),
              scratchFolder: this.#options.scratchFolder,
            },
            (folder, control) => this.#fill(ids, folder, control, template),
          )
    const elapsedMs = Math.round(performance.now() - startedAt)
    this.#options.log.info({ ...ids, elapsedMs }, 'bootstrapped a timeline')
    return timeline
  }

  #fill(
    { tenantId, timelineId }: TimelineIds,
    folder: string,
    control: ControlFile,
    { pgVersion }: InitdbTemplate,
  ): Promise<Timeline> {
    // Durable and visible only once the import is complete and flushed.
    const facts = {
      startLsn: importLsn(control),
      systemId: String(control.systemId),
      pgVersion,
    }
    return this.#tenants.createTimeline(tenantId, timelineId, facts, (empty) =>
      importDataFolder(empty, folder, control, { areCached: true }),
    )
  }

  /** Takes in a stopped cluster as it is: identity, WAL position, every page. */
  async #import({ tenantId, timelineId }: TimelineIds, dataDir: string): Promise<Timeline> {
    const { pgVersion } = await this.prepareTemplate()
    const control = await readClusterControl(dataDir)
    const facts = { startLsn: importLsn(control), systemId: String(control.systemId), pgVersion }
    const timeline = await this.#tenants.createTimeline(tenantId, timelineId, facts, (empty) =>
      importDataFolder(empty, dataDir, control),
    )
    this.#options.log.info({ tenantId, timelineId, dataDir }, 'imported a data folder')
    return timeline
  }

  async setSafekeepers(
    ids: TimelineIds,
    safekeepers: readonly WalSource[],
  ): Promise<PageserverTimeline> {
    this.timeline(ids)
    this.#receive(ids, safekeepers)
    return this.describe(ids, { withSize: false })
  }

  listTimelines(tenantId: TenantId): Promise<PageserverTimeline[]> {
    const timelines = this.#tenants.tenant(tenantId).timelines()
    return Promise.all(
      timelines.map(({ timelineId }) =>
        this.describe({ tenantId, timelineId }, { withSize: false }),
      ),
    )
  }

  async describe(ids: TimelineIds, options: { withSize: boolean }): Promise<PageserverTimeline> {
    const timeline = this.timeline(ids)
    const { ancestor } = timeline
    const brokenReason = this.#broken.get(keyOf(ids)) ?? timeline.fenced?.message ?? null
    return {
      timelineId: ids.timelineId,
      ...(ancestor
        ? {
            ancestorTimelineId: ancestor.timeline.timelineId,
            ancestorLsn: formatLsn(ancestor.lsn),
          }
        : {}),
      state: brokenReason === null ? 'active' : 'broken',
      brokenReason,
      startLsn: formatLsn(timeline.startLsn),
      lastRecordLsn: formatLsn(timeline.lastRecordLsn),
      diskConsistentLsn: formatLsn(timeline.diskConsistentLsn),
      remoteConsistentLsn: formatLsn(timeline.remoteConsistentLsn),
      systemId: timeline.systemId,
      pgVersion: timeline.pgVersion,
      ...(options.withSize ? { logicalSizeBytes: await logicalSize(timeline) } : {}),
      walReceiver: this.#receivers.get(keyOf(ids))?.info() ?? null,
    }
  }

  /** See `TimelineLives.delete`. */
  async deleteTimeline(ids: TimelineIds): Promise<void> {
    const { tenantId, timelineId } = ids
    const tenant = this.#tenants.tenant(tenantId)
    await this.#withoutReceiver(ids, () => tenant.lives.delete(timelineId))
    this.#broken.delete(keyOf(ids))
  }

  /**
   * Deletes all timelines of a tenant, or of a shard of it, and tells how many objects are left in
   * storage: they leave by a queue, so that the question is to be asked again until there are none.
   */
  async deleteTenant(tenantId: TenantId): Promise<number> {
    const tenant = this.#tenants.tenant(tenantId)
    await tenant.beginEnd()
    for (;;) {
      const timelineId = tenant.lives.nextToDelete()
      if (timelineId === null) return await tenant.lives.emptyStorage()
      await this.deleteTimeline({ tenantId, timelineId })
    }
  }

  /** See `TimelineLives.borrowed`. Only the newest holder's word counts, so it says who it is. */
  borrowed(tenantId: TenantId): { generation: number; objects: string[] } {
    const tenant = this.#tenants.tenant(tenantId)
    tenant.attachment.checkMayWrite()
    return { generation: tenant.generation, objects: tenant.lives.borrowed() }
  }

  /** See former.ts. Throws `conflict` for a shard that is here. */
  sweepFormer(tenantId: TenantId, former: TenantId, keep: readonly string[]): Promise<number> {
    if (this.#tenants.find(former) !== null) {
      throw new ZenithError('conflict', `${former} is still attached to this page server`)
    }
    return sweepFormer(this.#tenants.objectStore, tenantId, former, new Set(keep))
  }

  /** Takes in WAL up to the LSN and puts the timeline away; see `TimelineLives.archive`. */
  async archiveTimeline(ids: TimelineIds, lsn: Lsn): Promise<void> {
    const tenant = this.#tenants.tenant(ids.tenantId)
    if (tenant.lives.archived(ids.timelineId)) return
    await this.useTimeline(ids).waitForLsn(lsn, ARCHIVE_WAIT_MS)
    await this.#withoutReceiver(ids, () => tenant.lives.archive(ids.timelineId))
  }

  /** See `TimelineLives.unarchive`; WAL is received again once safekeepers are named. */
  async unarchiveTimeline({ tenantId, timelineId }: TimelineIds): Promise<void> {
    await this.#tenants.tenant(tenantId).lives.unarchive(timelineId)
  }

  /** See `TimelineLives.detach`. */
  async detachTimeline(ids: TimelineIds, from: BranchPlace): Promise<DetachedTimeline> {
    // The ancestor may have to take in WAL up to the branch point first.
    this.nudge({ ...ids, timelineId: from.ancestorTimelineId })
    const tenant = this.#tenants.tenant(ids.tenantId)
    const timeline = await tenant.lives.detach(ids.timelineId, from)
    return {
      startLsn: formatLsn(timeline.startLsn),
      children: tenant.lives.childrenOf(ids.timelineId).map(({ timelineId }) => timelineId),
    }
  }

  /** Sizes as they are now; the logical one of an archived timeline is not known. */
  async sizes(ids: TimelineIds): Promise<TimelineSizes> {
    const archived = this.#tenants.tenant(ids.tenantId).lives.archived(ids.timelineId)
    if (archived) {
      const bytes = (own: boolean) =>
        archived.layers
          .filter(({ origin }) => (origin === null) === own)
          .reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
      const writtenBytes = archived.diskConsistentLsn - walStartOf(archived.facts)
      return { logicalBytes: null, ownBytes: bytes(true), adoptedBytes: bytes(false), writtenBytes }
    }
    const timeline = this.timeline(ids)
    await timeline.ready()
    const { logicalBytes, writtenBytes } = timeline
    const { own, adopted } = timeline.layers.bytes
    return { logicalBytes, ownBytes: own, adoptedBytes: adopted, writtenBytes }
  }

  /** No WAL comes in while the work runs; when it fails, WAL comes in again. */
  async #withoutReceiver(ids: TimelineIds, work: () => Promise<void>): Promise<void> {
    const key = keyOf(ids)
    const receiver = this.#receivers.get(key)
    this.#receivers.delete(key)
    await receiver?.stop()
    try {
      await work()
    } catch (error) {
      const isOpen = this.#tenants
        .tenant(ids.tenantId)
        .timelines()
        .some(({ timelineId }) => timelineId === ids.timelineId)
      if (receiver && isOpen) this.#receive(ids, receiver.safekeepers)
      throw error
    }
  }

  /** The timeline gets no WAL before somebody names safekeepers anew. */
  async stopReceiver(ids: TimelineIds): Promise<void> {
    const key = keyOf(ids)
    const receiver = this.#receivers.get(key)
    this.#receivers.delete(key)
    await receiver?.stop()
  }

  async stopReceivers(): Promise<void> {
    await Promise.all([...this.#receivers.values()].map((receiver) => receiver.stop()))
  }

  #find({ tenantId, timelineId }: TimelineIds): Timeline | null {
    try {
      return this.timeline({ tenantId, timelineId })
    } catch (error) {
      if (error instanceof ZenithError && error.code === 'not_found') return null
      throw error
    }
  }

  #receive(ids: TimelineIds, safekeepers: readonly WalSource[], firstAskMs = 0): void {
    const key = keyOf(ids)
    const existing = this.#receivers.get(key)
    if (existing) {
      existing.setSafekeepers(safekeepers)
      return
    }
    if (safekeepers.length === 0) return
    const timeline = this.timeline(ids)
    const receiver = new WalReceiver({
      tenantId: wholeTenant(ids.tenantId),
      timelineId: ids.timelineId,
      timeline,
      openSink: () => WalIngest.open(timeline),
      safekeepers,
      firstAskMs,
      log: this.#options.log.child(
        timeline.shard === null ? {} : { shard: timeline.shard.identity.number },
      ),
      metrics: this.#walMetrics,
      discovery: this.#options.discovery,
      onBroken: (reason) => {
        this.#broken.set(key, reason)
        timeline.failWaiters(new ZenithError('corrupt', `timeline is broken: ${reason}`))
      },
      onRepaired: () => {
        this.#broken.delete(key)
        timeline.takeWaiters()
      },
    })
    this.#receivers.set(key, receiver)
    receiver.start()
  }

  *#watched(): Generator<WatchedTimeline> {
    for (const tenant of this.#tenants.tenants()) {
      for (const timeline of tenant.timelines()) {
        const key = keyOf(timeline)
        const lag = this.#receivers.get(key)?.lag() ?? null
        yield { timeline, lag, broken: this.#broken.has(key) }
      }
    }
  }
}

function keyOf({ tenantId, timelineId }: TimelineIds): string {
  return `${tenantId}/${timelineId}`
}

function checkOrigin(timeline: Timeline, mode: TimelineMode): void {
  const { ancestor } = timeline
  const same =
    mode.kind !== 'branch'
      ? ancestor === null
      : ancestor?.timeline.timelineId === mode.ancestorTimelineId &&
        ancestor.lsn === parseLsn(mode.ancestorLsn)
  if (same) return
  const origin = ancestor
    ? `branches from ${ancestor.timeline.timelineId} at ${formatLsn(ancestor.lsn)}`
    : 'begins with a cluster of its own'
  throw new ZenithError('conflict', `timeline ${timeline.timelineId} exists already and ${origin}`)
}

function largestOf(timelines: readonly Timeline[]): number | null {
  const known = timelines.flatMap(({ logicalBytes }) => logicalBytes ?? [])
  return known.length === 0 ? null : known.reduce((largest, one) => Math.max(largest, one))
}

async function logicalSize(timeline: Timeline): Promise<number> {
  const forks = await timeline.scanBlobs(KeyClass.RelSize, timeline.lastRecordLsn)
  return forks.reduce((sum, { value }) => sum + value.readUInt32LE(0), 0) * PAGE_SIZE
}
