/** The timelines of one safekeeper: loaded at start, created and deleted only when told to. */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import type { ControlState } from './control-state.ts'
import { buildCopy, checkOrder, type PullOrder, pullingFolder } from './membership/pull.ts'
import { PullJobs, type PullProgress } from './membership/pull-jobs.ts'
import { Tombstones } from './membership/tombstones.ts'
import { replaceFile, syncDirectory } from './store/files.ts'
import { DiskLimits, type DiskLimitSettings } from './store/disk-limits.ts'
import { DiskReserve } from './store/disk-reserve.ts'
import { SpareSegments } from './store/spare-segments.ts'
import { WriteSlots } from './store/write-slots.ts'
import { Timeline } from './timeline.ts'
import type { TimelineContext } from './timeline-context.ts'

const SPARE_SEGMENTS = 2
const TICK_MS = 5_000
const DISK_CHECK_MS = 1_000
const PARALLEL_LOADS = 4
/** Synced writes at a time: the pool of threads (libs/thread-pool.ts) without two for all the rest. */
const CONCURRENT_WRITES = 14
/** Says that the process before made everything durable. */
const CLEAN_MARKER = 'clean-stop'
const ID_NAME = /^[0-9a-f]{32}$/

type OpenOptions = Pick<TimelineContext, 'nodeId' | 'metrics' | 'log' | 'offload'> & {
  limits?: DiskLimitSettings
}

const NO_LIMITS: DiskLimitSettings = {
  maxTimelineWalBytes: null,
  maxWalBytes: null,
  minFreeBytes: 0,
}

/** A timeline that cannot be opened stays known, so that it is neither created anew nor voted for. */
type Entry = { kind: 'open'; timeline: Timeline } | { kind: 'broken'; error: ZenithError }

export class Timelines {
  readonly #dataDir: string
  readonly #root: string
  readonly #context: TimelineContext
  readonly #entries = new Map<string, Entry>()
  /** Creations and deletions under way, so that two of the same timeline follow each other. */
  readonly #changing = new Map<string, Promise<unknown>>()
  readonly #pulls = new PullJobs()
  readonly tombstones: Tombstones
  readonly #timers: NodeJS.Timeout[]

  private constructor(dataDir: string, tombstones: Tombstones, context: TimelineContext) {
    this.#dataDir = dataDir
    this.tombstones = tombstones
    this.#root = join(dataDir, 'tenants')
    this.#context = context
    this.#timers = [
      setInterval(() => this.#tick(), TICK_MS),
      setInterval(() => void this.checkDisk(), DISK_CHECK_MS),
    ]
  }

  /** Opens every timeline under `dataDir`; one that is damaged is kept as broken and logged. */
  static async open(dataDir: string, options: OpenOptions): Promise<Timelines> {
    const root = join(dataDir, 'tenants')
    await mkdir(root, { recursive: true })
    const incarnation = await loadIncarnation(dataDir)
    const spares = await SpareSegments.open(join(dataDir, 'spares'), SPARE_SEGMENTS)
    const reserve = await DiskReserve.open(join(dataDir, 'reserve'))
    const slots = new WriteSlots(CONCURRENT_WRITES)
    const tombstones = await Tombstones.open(dataDir)
    const limits = new DiskLimits(options.limits ?? NO_LIMITS, dataDir, spares)
    const totalDiskBytes = () => timelines.diskBytes
    const parts = { incarnation, spares, reserve, slots, limits, totalDiskBytes }
    const timelines: Timelines = new Timelines(dataDir, tombstones, { ...options, ...parts })
    await timelines.checkDisk()
    const afterCleanStop = await takeMarker(dataDir)
    const loads: (() => Promise<void>)[] = []
    for (const tenant of await readdir(root)) {
      if (!ID_NAME.test(tenant)) continue
      for (const name of await readdir(join(root, tenant))) {
        if (ID_NAME.test(name)) {
          const [tenantId, timelineId] = [parseTenantId(tenant), parseTimelineId(name)]
          loads.push(() => timelines.#load(tenantId, timelineId, afterCleanStop))
        } else await rm(join(root, tenant, name), { recursive: true, force: true })
      }
    }
    const worker = async () => {
      for (let load = loads.pop(); load; load = loads.pop()) await load()
    }
    await Promise.all(Array.from({ length: PARALLEL_LOADS }, worker))
    return timelines
  }

  /** What the segments of all timelines take on disk. */
  get diskBytes(): number {
    let bytes = 0
    for (const entry of this.#entries.values()) {
      if (entry.kind === 'open') bytes += entry.timeline.diskBytes
    }
    return bytes
  }

  /** Space on the disk, and why nobody gets another segment at present; null when all may. */
  get disk(): { freeBytes: number | null; walBytes: number; refusal: string | null } {
    const { limits } = this.#context
    const walBytes = this.diskBytes
    return { freeBytes: limits.freeBytes, walBytes, refusal: limits.refusal(0, walBytes, 1) }
  }

  /** Looks how much space there is, and takes the reserve again if it was given up. */
  async checkDisk(): Promise<void> {
    const { limits, reserve, metrics, log } = this.#context
    try {
      await limits.refresh()
      await reserve.refill()
    } catch (error) {
      log.error({ err: error }, 'the space on the disk cannot be told')
    }
    if (limits.freeBytes !== null) metrics.freeDiskBytes.set(limits.freeBytes)
    metrics.walDiskBytes.set(this.diskBytes)
  }

  /** All timelines that are open. */
  list(): Timeline[] {
    const open: Timeline[] = []
    for (const entry of this.#entries.values()) {
      if (entry.kind === 'open') open.push(entry.timeline)
    }
    return open
  }

  /** Throws `not_found`, or the reason why the timeline could not be opened. */
  get(tenantId: TenantId, timelineId: TimelineId): Timeline {
    const entry = this.#entries.get(`${tenantId}/${timelineId}`)
    if (entry === undefined) {
      throw new ZenithError('not_found', `this safekeeper has no timeline ${timelineId}`, {
        hint: 'Timelines are created through the control plane, never by connecting.',
      })
    }
    if (entry.kind === 'broken') throw entry.error
    return entry.timeline
  }

  /** Creates a timeline; the same one again is fine. Throws `already_exists` when it differs. */
  create(control: ControlState): Promise<Timeline> {
    return this.#change(`${control.tenantId}/${control.timelineId}`, async (key) => {
      const { tenantId, timelineId } = control
      this.tombstones.check(tenantId, timelineId, control.configuration.generation)
      const existing = this.#entries.get(key)
      if (existing?.kind === 'broken') throw existing.error
      if (existing) {
        const difference = differenceOf(existing.timeline.control, control)
        if (difference === null) return existing.timeline
        throw new ZenithError(
          'already_exists',
          `timeline ${control.timelineId} exists with another ${difference}`,
        )
      }
      const timeline = await Timeline.create(join(this.#root, key), control, this.#context)
      this.#entries.set(key, { kind: 'open', timeline })
      this.#context.metrics.timelines.set(this.#entries.size)
      return timeline
    })
  }

  /**
   * Makes the timeline whole here for the members of a generation, by copying it from another
   * safekeeper if it is not here yet. Answers after a moment with how far that is; asking again joins
   * the copy. Throws `precondition_failed` for a generation below the one that is here, or deleted.
   */
  async pull(order: PullOrder): Promise<PullProgress> {
    const { tenantId, timelineId } = order.target
    const { configuration } = order
    const key = `${tenantId}/${timelineId}`
    checkOrder(order, this.#context.nodeId)
    this.tombstones.check(tenantId, timelineId, configuration.generation)
    const existing = this.#entries.get(key)
    if (existing?.kind === 'open') {
      await existing.timeline.configure(configuration)
      return { finished: true, copiedBytes: 0, totalBytes: 0 }
    }
    return this.#pulls.run(key, configuration.generation, async (signal, progress) => {
      const directory = pullingFolder(join(this.#root, tenantId), timelineId)
      const log = this.#context.log.child({ timeline: timelineId })
      await buildCopy(order, { timeline: this.#context, directory, log, signal, progress })
      await this.#change(key, () => this.#takeCopy(key, directory, order))
    })
  }

  /** Puts a finished copy in its place, unless something happened there in the meantime. */
  async #takeCopy(key: string, built: string, order: PullOrder): Promise<void> {
    const { tenantId, timelineId } = order.target
    this.tombstones.check(tenantId, timelineId, order.configuration.generation)
    const before = this.#entries.get(key)
    const directory = join(this.#root, key)
    if (before?.kind === 'open') {
      await rm(built, { recursive: true, force: true })
      return await before.timeline.configure(order.configuration)
    }
    // A damaged timeline gives way to a whole copy, and not before there is one.
    if (before?.kind === 'broken') await this.#setAside(tenantId, timelineId)
    await rename(built, directory)
    await syncDirectory(dirname(directory))
    const timeline = await Timeline.open(directory, this.#context, true)
    this.#entries.set(key, { kind: 'open', timeline })
    this.#context.metrics.timelines.set(this.#entries.size)
  }

  /**
   * Removes a timeline with its WAL for good: it cannot come back under `generation` or a lower one.
   * Null stands for the generation that is here. False when it was not here. Throws
   * `precondition_failed` when a higher generation is here. With `objects` goes what all its members
   * have in object storage.
   */
  async delete(
    tenantId: TenantId,
    timelineId: TimelineId,
    generation: number | null,
    objects = false,
  ): Promise<boolean> {
    const key = `${tenantId}/${timelineId}`
    const deleted = await this.#change(key, async () => {
      const entry = this.#entries.get(key)
      const own = entry?.kind === 'open' ? entry.timeline.control.configuration.generation : null
      if (generation !== null) this.#refuseOldDeletion(key, generation)
      const last = generation ?? own
      // Durable before anything is gone: whoever asks afterwards, or after a crash, is told.
      if (last !== null) await this.tombstones.add(tenantId, timelineId, last)
      if (entry === undefined) return false
      this.#entries.delete(key)
      if (entry.kind === 'open') {
        await entry.timeline.close()
        await this.#context.offload?.deleteTails(entry.timeline.control)
      }
      await this.#setAside(tenantId, timelineId)
      this.#context.metrics.timelines.set(this.#entries.size)
      return true
    })
    // A copy that was being made finds the tombstone, or is called off here.
    await this.#pulls.stop(key)
    if (objects) await this.#context.offload?.deleteObjects({ tenantId, timelineId })
    return deleted
  }

  #refuseOldDeletion(key: string, generation: number): void {
    const entry = this.#entries.get(key)
    if (entry?.kind !== 'open') return
    const own = entry.timeline.control.configuration.generation
    if (own <= generation) return
    throw new ZenithError(
      'precondition_failed',
      `the timeline is here at generation ${own}, so it is not deleted for generation ${generation}`,
    )
  }

  async #setAside(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    const folder = join(this.#root, tenantId)
    const doomed = join(folder, `deleting-${timelineId}`)
    await rename(join(folder, timelineId), doomed)
    await syncDirectory(folder)
    await rm(doomed, { recursive: true, force: true })
  }

  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer)
    await this.#pulls.close()
    const closed = await Promise.all(this.list().map((timeline) => timeline.close()))
    await this.#context.spares.close()
    if (!closed.every(Boolean)) return
    try {
      await replaceFile(join(this.#dataDir, CLEAN_MARKER), Buffer.alloc(0))
    } catch (error) {
      // Without it the next start only looks more closely.
      this.#context.log.warn({ err: error }, 'the clean stop cannot be noted')
    }
  }

  async #load(tenantId: TenantId, timelineId: TimelineId, afterCleanStop: boolean): Promise<void> {
    const key = `${tenantId}/${timelineId}`
    try {
      const timeline = await Timeline.open(join(this.#root, key), this.#context, afterCleanStop)
      const { control } = timeline
      if (control.tenantId !== tenantId || control.timelineId !== timelineId) {
        throw new ZenithError('corrupt', `${key} holds the control file of another timeline`)
      }
      if (await this.#finishDeletion(timeline)) return
      this.#entries.set(key, { kind: 'open', timeline })
    } catch (error) {
      this.#context.log.error({ err: error, timeline: timelineId }, 'timeline cannot be opened')
      const known =
        error instanceof ZenithError
          ? error
          : new ZenithError('corrupt', `timeline ${timelineId}: ${errorMessage(error)}`)
      this.#entries.set(key, { kind: 'broken', error: known })
    }
    this.#context.metrics.timelines.set(this.#entries.size)
  }

  /** A deletion that had begun goes on: its tombstone is there, its files are too. */
  async #finishDeletion(timeline: Timeline): Promise<boolean> {
    const { tenantId, timelineId, configuration } = timeline.control
    try {
      this.tombstones.check(tenantId, timelineId, configuration.generation)
      return false
    } catch {
      await timeline.close()
      await this.#setAside(tenantId, timelineId)
      return true
    }
  }

  #tick(): void {
    for (const timeline of this.list()) timeline.tick()
  }

  async #change<T>(key: string, action: (key: string) => Promise<T>): Promise<T> {
    const before = this.#changing.get(key) ?? Promise.resolve()
    const run = before.then(() => action(key))
    const settled = run.catch(() => {})
    this.#changing.set(key, settled)
    try {
      return await run
    } finally {
      if (this.#changing.get(key) === settled) this.#changing.delete(key)
    }
  }
}

/** Names what differs between a timeline and a request to create it; null when nothing does. */
function differenceOf(mine: ControlState, wanted: ControlState): string | null {
  if (mine.startLsn !== wanted.startLsn) return 'start LSN'
  if (mine.systemId !== wanted.systemId) return 'system identifier'
  const major = (version: number) => Math.floor(version / 10_000)
  if (major(mine.pgVersion) !== major(wanted.pgVersion)) return 'Postgres version'
  return null
}

/** Whether the process before stopped in order; the marker is gone before anything changes. */
async function takeMarker(dataDir: string): Promise<boolean> {
  try {
    await unlink(join(dataDir, CLEAN_MARKER))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
  await syncDirectory(dataDir)
  return true
}

/** Random id of this data folder: a folder that was lost and made anew is told by it. */
async function loadIncarnation(dataDir: string): Promise<string> {
  const path = join(dataDir, 'incarnation')
  try {
    const text = (await readFile(path, 'utf8')).trim()
    if (ID_NAME.test(text)) return text
    throw new ZenithError('corrupt', `${path} does not hold 32 hex digits`)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  const incarnation = randomBytes(16).toString('hex')
  await replaceFile(path, Buffer.from(`${incarnation}\n`))
  return incarnation
}
