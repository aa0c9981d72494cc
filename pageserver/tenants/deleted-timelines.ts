/**
 * Timelines on their way out. First a manifest that says `deleted`, a snapshot that needs no other
 * object; then everything else of the timeline's folder in object storage that no timeline refers
 * to; that manifest last. So whatever a crash leaves behind says what it is: it is never opened, and
 * whoever finds it goes on deleting.
 */
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Manifest } from '../remote/manifest.ts'
import { tenantFolder, timelinesFolder } from '../remote/paths.ts'
import { manifestStoreOf } from '../timeline/layer-store.ts'
import type { StorageContext } from '../timeline/storage-context.ts'
import type { Attachment } from './attachment.ts'
import { type FoundTimeline, layerObjects } from './found-timeline.ts'

/** Objects leave storage by a queue; so often it is looked whether they have. */
const SWEEP_MS = 60_000

export interface DeletedTimelinesOptions {
  tenantId: TenantId
  generation: number
  context: StorageContext
  attachment: Attachment
  /** Those of the objects that no timeline refers to. */
  unused: (names: readonly string[]) => string[]
}

export class DeletedTimelines {
  readonly #options: DeletedTimelinesOptions
  /** Null until the manifest that says so is durable. */
  readonly #timelines = new Map<TimelineId, FoundTimeline | null>()
  /** Finished; remembered so that no late request makes them again. */
  readonly #finished = new Set<TimelineId>()
  /** Names that the queue has; it does not forget them. */
  readonly #queued = new Map<TimelineId, Set<string>>()
  #sweeping: Promise<void> = Promise.resolve()
  #sweptMs = 0
  #stopped = false

  constructor(options: DeletedTimelinesOptions) {
    this.#options = options
  }

  has(timelineId: TimelineId): boolean {
    return this.#timelines.has(timelineId) || this.#finished.has(timelineId)
  }

  isDurable(timelineId: TimelineId): boolean {
    return Boolean(this.#timelines.get(timelineId)) || this.#finished.has(timelineId)
  }

  /** One that was found in storage with its manifest. */
  add(found: FoundTimeline): void {
    this.#timelines.set(found.timelineId, found)
  }

  begin(timelineId: TimelineId): void {
    if (!this.has(timelineId)) this.#timelines.set(timelineId, null)
  }

  /** Makes it durable that the timeline is deleted. One without any manifest is forgotten. */
  async mark(timelineId: TimelineId): Promise<void> {
    const { context, tenantId, generation, attachment } = this.#options
    attachment.checkMayWrite()
    const manifests = manifestStoreOf(context, tenantId, timelineId, generation)
    // What cannot be read is deleted all the same; its layers are found by their folder.
    const damaged = (error: unknown) => {
      if (error instanceof ZenithError && error.code === 'corrupt') return UNREADABLE
      throw error
    }
    const last = await manifests.load().catch(damaged)
    if (last === null) {
      this.#finish(timelineId)
      return
    }
    const manifest: Manifest = { ...last, state: 'deleted' }
    await manifests.write(manifest)
    this.add({ timelineId, manifests, manifest })
  }

  /** Goes on with all of them. */
  async sweepAll(): Promise<void> {
    for (const timelineId of this.#timelines.keys()) await this.sweep(timelineId)
  }

  tick(nowMs: number): void {
    if (nowMs - this.#sweptMs < SWEEP_MS) return
    this.#sweptMs = nowMs
    void this.sweepAll()
  }

  /** Goes as far as it can; what fails is tried again later. Sweeps come one after the other. */
  sweep(timelineId: TimelineId): Promise<void> {
    const { context, tenantId } = this.#options
    this.#sweeping = this.#sweeping
      .then(() => this.#sweep(timelineId))
      .catch((error: unknown) => {
        const facts = { tenantId, timelineId, reason: errorMessage(error) }
        context.log.warn(facts, 'objects of a deleted timeline must wait')
      })
    return this.#sweeping
  }

  /**
   * Of a tenant without timelines: objects that no deleted timeline accounts for, such as those of a
   * creation that never got a manifest, go to the queue. Returns how many objects are left in all.
   */
  async releaseRest(): Promise<number> {
    const { context, tenantId, generation, attachment } = this.#options
    const { objects } = await context.store.list(tenantFolder(tenantId))
    const parent = timelinesFolder(tenantId)
    const waiting = [...this.#timelines.keys()].map((timelineId) => `${parent}/${timelineId}/`)
    const rest = objects
      .map(({ name }) => name)
      .filter((name) => !waiting.some((folder) => name.startsWith(folder)))
    if (attachment.mode === 'attached') context.deletions.push(tenantId, generation, rest)
    return objects.length
  }

  /** Resolves when no sweep runs; none begins after it. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#sweeping
  }

  async #sweep(timelineId: TimelineId): Promise<void> {
    const found = this.#timelines.get(timelineId)
    if (!found || this.#stopped) return
    const { context, tenantId, generation, unused, attachment } = this.#options
    // Another holder may still read them.
    if (attachment.mode !== 'attached') return
    const { objects } = await context.store.list(`${timelinesFolder(tenantId)}/${timelineId}`)
    const last = found.manifests.lastName
    const own = objects.map(({ name }) => name).filter((name) => name !== last)
    const foreign = layerObjects(tenantId, found).filter((name) => !own.includes(name))
    const free = unused(own)
    if (free.length > 0) {
      this.#queue(timelineId, [...free, ...unused(foreign)])
      return
    }
    // All that is left besides the manifest belongs to other timelines, and goes with them.
    if (unused([last]).length === 0) return
    context.deletions.push(tenantId, generation, [last])
    this.#finish(timelineId)
  }

  #queue(timelineId: TimelineId, names: readonly string[]): void {
    const { context, tenantId, generation } = this.#options
    const queued = this.#queued.get(timelineId) ?? new Set()
    const fresh = names.filter((name) => !queued.has(name))
    if (fresh.length === 0) return
    for (const name of fresh) queued.add(name)
    this.#queued.set(timelineId, queued)
    context.deletions.push(tenantId, generation, fresh)
  }

  #finish(timelineId: TimelineId): void {
    this.#timelines.delete(timelineId)
    this.#queued.delete(timelineId)
    this.#finished.add(timelineId)
  }
}

const UNREADABLE: Manifest = {
  facts: {
    ancestorTimelineId: null,
    ancestorLsn: null,
    startLsn: 0,
    systemId: '0',
    pgVersion: 0,
  },
  state: 'deleted',
  gcCutoffLsn: null,
  leasedLsns: [],
  diskConsistentLsn: 0,
  prevRecordLsn: null,
  layers: [],
}
