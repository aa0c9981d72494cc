/** The timelines of one safekeeper: loaded at start, created and deleted only when told to. */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import type { ControlState } from './control-state.ts'
import { replaceFile, syncDirectory } from './store/files.ts'
import { DiskReserve } from './store/disk-reserve.ts'
import { SpareSegments } from './store/spare-segments.ts'
import { WriteSlots } from './store/write-slots.ts'
import { Timeline, type TimelineContext } from './timeline.ts'

const SPARE_SEGMENTS = 2
const TICK_MS = 5_000
const PARALLEL_LOADS = 4
/** Synced writes at a time: the pool of threads (thread-pool.ts) without two for all the rest. */
const CONCURRENT_WRITES = 14
/** Says that the process before made everything durable. */
const CLEAN_MARKER = 'clean-stop'
const ID_NAME = /^[0-9a-f]{32}$/

type OpenOptions = Omit<TimelineContext, 'spares' | 'incarnation' | 'reserve' | 'slots'>

/** A timeline that cannot be opened stays known, so that it is neither created anew nor voted for. */
type Entry = { kind: 'open'; timeline: Timeline } | { kind: 'broken'; error: ZenithError }

export class Timelines {
  readonly #dataDir: string
  readonly #root: string
  readonly #context: TimelineContext
  readonly #entries = new Map<string, Entry>()
  /** Creations and deletions under way, so that two of the same timeline follow each other. */
  readonly #changing = new Map<string, Promise<unknown>>()
  readonly #timer: NodeJS.Timeout

  private constructor(dataDir: string, context: TimelineContext) {
    this.#dataDir = dataDir
    this.#root = join(dataDir, 'tenants')
    this.#context = context
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
  }

  /** Opens every timeline under `dataDir`; one that is damaged is kept as broken and logged. */
  static async open(dataDir: string, options: OpenOptions): Promise<Timelines> {
    const root = join(dataDir, 'tenants')
    await mkdir(root, { recursive: true })
    const incarnation = await loadIncarnation(dataDir)
    const spares = await SpareSegments.open(join(dataDir, 'spares'), SPARE_SEGMENTS)
    const reserve = await DiskReserve.open(join(dataDir, 'reserve'))
    const slots = new WriteSlots(CONCURRENT_WRITES)
    const timelines = new Timelines(dataDir, { ...options, incarnation, spares, reserve, slots })
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

  /** Removes a timeline with its WAL. False when it was not there. */
  delete(tenantId: TenantId, timelineId: TimelineId): Promise<boolean> {
    return this.#change(`${tenantId}/${timelineId}`, async (key) => {
      const entry = this.#entries.get(key)
      if (entry === undefined) return false
      this.#entries.delete(key)
      if (entry.kind === 'open') await entry.timeline.close()
      const doomed = join(this.#root, tenantId, `deleting-${timelineId}`)
      await rename(join(this.#root, key), doomed)
      await syncDirectory(join(this.#root, tenantId))
      await rm(doomed, { recursive: true, force: true })
      this.#context.metrics.timelines.set(this.#entries.size)
      return true
    })
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    const closed = await Promise.all(this.list().map((timeline) => timeline.close()))
    await this.#context.spares.close()
    if (closed.every(Boolean)) await replaceFile(join(this.#dataDir, CLEAN_MARKER), Buffer.alloc(0))
  }

  async #load(tenantId: TenantId, timelineId: TimelineId, afterCleanStop: boolean): Promise<void> {
    const key = `${tenantId}/${timelineId}`
    try {
      const timeline = await Timeline.open(join(this.#root, key), this.#context, afterCleanStop)
      const { control } = timeline
      if (control.tenantId !== tenantId || control.timelineId !== timelineId) {
        throw new ZenithError('corrupt', `${key} holds the control file of another timeline`)
      }
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
