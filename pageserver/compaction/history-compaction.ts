/**
 * Images and bottom-most compaction of one timeline: what is due, and the way from a plan by a job
 * to the layer map. Callers hold the timeline's compaction lock.
 *
 * A job reads at LSNs that stay readable for it whatever is collected meanwhile: images at the
 * boundary of L0 and L1, where every state still is; history at the retained points and at a cutoff
 * that is durable. Reads that began below that cutoff before it was raised end before their layers
 * leave the map.
 */
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Retention } from '../gc/retention.ts'
import { isPageClass } from '../keyspace/key-class.ts'
import { type KeyRange, rangeCovers } from '../keyspace/key-range.ts'
import type { Layer, LayerEntry } from '../layers/layer.ts'
import type { LayerShape } from '../layers/layer-shape.ts'
import type { ReadSource } from '../read/read-plan.ts'
import type { LayerStore } from '../timeline/layer-store.ts'
import type { StorageContext } from '../timeline/storage-context.ts'
import { type BottomPlan, horizonOf, planBottom } from './bottommost-plan.ts'
import { ColumnDepths, sampledDepth } from './column-depth.ts'
import { isSnapshot, standsForAll } from './image-columns.ts'
import { boundaryLsn, type ImagePlan, type ImageState, planImages } from './image-plan.ts'
import type { BottomJob, CompactionRunner } from './job.ts'
import { describeRange, enter, isInLayers, layersOfRange } from './job-source.ts'
import { type IndexedLayer, indexedLayer, keysInRange } from './range-keys.ts'

/** A job of images ends after so many files, so that what is done is published and L0 may come. */
const FILES_PER_JOB = 2
/** After so many runs that made room, one runs to its end. */
const MAX_PREEMPTED = 2
/** A page in an image, compressed, while nothing better is known. */
const PAGE_GUESS_BYTES = 2048

export interface HistoryCompactionOptions {
  tenantId: TenantId
  timelineId: TimelineId
  store: LayerStore
  source: ReadSource
  retention: Retention
  context: StorageContext
  signal: AbortSignal
}

export class HistoryCompaction {
  readonly #ids: { tenantId: TenantId; timelineId: TimelineId }
  readonly #store: LayerStore
  readonly #source: ReadSource
  readonly #retention: Retention
  readonly #context: StorageContext
  readonly #signal: AbortSignal
  #preempted = 0
  readonly #depths = new ColumnDepths()
  /** Plans are pure: one is good until the map or a bound changes. The most urgent is kept. */
  #imagePlans: { of: number; durableLsn: Lsn; plans: ImagePlan<LayerShape>[] } | null = null
  #bottomPlans: { of: number; points: string; plans: BottomPlan<LayerShape>[] } | null = null

  constructor(options: HistoryCompactionOptions) {
    const { tenantId, timelineId } = options
    this.#ids = { tenantId, timelineId }
    this.#store = options.store
    this.#source = options.source
    this.#retention = options.retention
    this.#context = options.context
    this.#signal = options.signal
  }

  /** How urgent the most urgent column is; 0 = none is due. */
  get imagesDue(): number {
    return this.#canRun ? (this.#planImages()[0]?.urgency ?? 0) : 0
  }

  /** How urgent the next piece below the cutoff is; 0 = there is none. */
  get bottomDue(): number {
    return this.#canRun ? (this.#planBottom()[0]?.urgency ?? 0) : 0
  }

  /**
   * How much the L0 layers below the cutoff weigh against the rest; 1 and more = they are merged
   * before there are many, since history cannot be rewritten while it lies in them.
   */
  get l0Due(): number {
    const { layers, gcCutoffLsn } = this.#store
    if (gcCutoffLsn === null || !this.#store.mayWrite) return 0
    const bytesOf = (some: readonly Layer[]) => some.reduce((sum, one) => sum + one.sizeBytes, 0)
    const old = layers.l0.filter((layer) => layer.endLsn <= gcCutoffLsn + 1 && !isSnapshot(layer))
    const rest = layers.bytes.own + layers.bytes.adopted - bytesOf(layers.l0)
    const weight = bytesOf(old) / Math.max(rest, this.#context.limits.imageDeltaBytes)
    return weight >= 1 ? weight : 0
  }

  /** Jobs read layers; what an ancestor still has in memory they would miss. */
  get #canRun(): boolean {
    return this.#store.mayWrite && isInLayers(this.#source)
  }

  /** Makes images of the most urgent column, or of its first part. False when none is due. */
  async makeImages(runner: CompactionRunner, stop: AbortSignal | null): Promise<boolean> {
    for (;;) {
      const [plan] = this.#canRun && !stop?.aborted ? this.#planImages() : []
      if (!plan) return false
      if (!plan.isForDepth || this.#depths.isExact(plan, plan.deltas.length)) {
        await this.#runImages(plan, runner, stop)
        return true
      }
      await this.#lookUpDepth(plan)
    }
  }

  /** Looks at the column, so that the next plans know how deep it is. */
  async #lookUpDepth(plan: ImagePlan<LayerShape>): Promise<void> {
    const { sinceLsn, imageLsn } = plan
    const deltas = this.#layersOf(plan.deltas)
    const indexed = await Promise.all(deltas.map(indexedLayer))
    const { slots } = this.#source
    const depth = sampledDepth(indexed, slots, plan, sinceLsn, imageLsn + 1)
    this.#depths.note(plan, deltas.length, depth)
    this.#imagePlans = null
  }

  /** Makes images of every column in which something has changed. */
  async makeAllImages(runner: CompactionRunner): Promise<void> {
    const { layers, durableLsn } = this.#store
    const imageLsn = boundaryLsn(layers.shapes, durableLsn)
    for (;;) {
      const { limits } = this.#context
      const { shapes } = this.#store.layers
      const [plan] = planImages({ ...this.#imageState(shapes, imageLsn), all: true }, limits)
      if (!plan || this.#signal.aborted || !this.#canRun) return
      await this.#runImages(plan, runner, null)
    }
  }

  /**
   * Rewrites the most urgent column's history below the cutoff. False when none is due; with `all`,
   * when there is nothing to gain.
   */
  async compactBottom(
    runner: CompactionRunner,
    stop: AbortSignal | null,
    all = false,
  ): Promise<boolean> {
    const [plan] = this.#canRun ? this.#planBottom(all) : []
    if (!plan) return false
    const worked = { inputs: this.#layersOf(plan.inputs), remove: this.#layersOf(plan.remove) }
    if (!(await this.#isWorth(plan, worked.inputs))) {
      this.#store.layers.settle(worked.inputs)
      return true
    }
    const mayStop = this.#preempted < MAX_PREEMPTED
    const { firstKey, lastKey, inputs, points, hasBase } = plan
    const oldestLsn = this.#oldestLsn
    let add: LayerEntry[]
    try {
      const job: BottomJob = {
        ...(await this.#jobBase(plan, points[points.length - 1] as Lsn)),
        kind: 'bottom',
        firstKey,
        lastKey,
        inputs: inputs.map((layer) => layer.key),
        points,
        oldestLsn,
        hasBase,
      }
      add = await runner.run(job, this.#stopSignal(mayStop ? stop : null))
    } catch (error) {
      if (stop?.aborted) this.#preempted++
      throw error
    }
    this.#preempted = 0
    await this.#retention.earlierReads()
    await enter(this.#store, add, worked.remove)
    const { layers } = this.#store
    const inside = add.filter(({ id }) => rangeCovers(plan, id))
    layers.settle(inside.flatMap((entry) => layers.find(entry) ?? []))
    return true
  }

  async #runImages(
    plan: ImagePlan<LayerShape>,
    runner: CompactionRunner,
    stop: AbortSignal | null,
  ): Promise<void> {
    const { firstKey, lastKey, inputs, imageLsn, floorLsn } = plan
    const add = await runner.run(
      {
        ...(await this.#jobBase(plan, imageLsn)),
        kind: 'images',
        firstKey,
        lastKey,
        inputs: inputs.map((layer) => layer.key),
        imageLsn,
        floorLsn,
        maxFiles: FILES_PER_JOB,
      },
      this.#stopSignal(stop),
    )
    // It may have been stopped before its first file.
    if (add.length > 0) await enter(this.#store, add, [])
  }

  /** Lowest LSN that a version of the timeline itself can have. */
  get #oldestLsn(): Lsn {
    const { facts, layers } = this.#store
    // A branch's own versions lie above its branch point; at that LSN the ancestor answers.
    if (this.#source.parent) return facts.startLsn + 1
    // What was taken over from an ancestor may be older than the timeline, and its images still tell
    // of it when it is gone.
    return Math.min(layers.lowestFloorLsn ?? facts.startLsn, facts.startLsn)
  }

  #planImages(): ImagePlan<LayerShape>[] {
    const { layers, durableLsn } = this.#store
    const known = this.#imagePlans
    if (known?.of === layers.version && known.durableLsn === durableLsn) return known.plans
    const { shapes } = layers
    const imageLsn = boundaryLsn(shapes, durableLsn)
    const state = this.#imageState(shapes, imageLsn)
    const plans = this.#depths.during(() => planImages(state, this.#context.limits)).slice(0, 1)
    this.#imagePlans = { of: layers.version, durableLsn, plans }
    return plans
  }

  #imageState(layers: readonly LayerShape[], imageLsn: Lsn): ImageState<LayerShape> {
    const isSettled = (layer: LayerShape) => layer.isSettled
    const depthBound = this.#depths.bound.bind(this.#depths)
    return { layers, imageLsn, oldestLsn: this.#oldestLsn, isSettled, depthBound, all: false }
  }

  #planBottom(all = false): BottomPlan<LayerShape>[] {
    const { layers, durableLsn, gcCutoffLsn } = this.#store
    if (gcCutoffLsn === null) return []
    const retainedPoints = this.#retention.retainedPoints()
    const points = `${all} ${durableLsn} ${gcCutoffLsn} ${retainedPoints.join()}`
    const known = this.#bottomPlans
    if (known?.of === layers.version && known.points === points) return known.plans
    const { shapes } = layers
    const boundary = boundaryLsn(shapes, durableLsn)
    const horizonLsn = horizonOf(shapes, gcCutoffLsn, boundary)
    const isSettled = (layer: LayerShape) => layer.isSettled
    const oldestLsn = this.#oldestLsn
    const state = { layers: shapes, horizonLsn: horizonLsn ?? 0, retainedPoints, oldestLsn }
    const plans =
      horizonLsn === null
        ? []
        : planBottom({ ...state, isSettled }, this.#context.limits, all).slice(0, 1)
    this.#bottomPlans = { of: layers.version, points, plans }
    return plans
  }

  /**
   * True when what is rewritten weighs more than pages of all its keys would. Where no image tells
   * what a column weighs, many small changes to many pages are best left as they are.
   */
  async #isWorth(plan: BottomPlan<LayerShape>, inputs: readonly Layer[]): Promise<boolean> {
    const oldestLsn = this.#oldestLsn
    if (inputs.some((layer) => standsForAll(layer, oldestLsn)) || plan.hasBase) return true
    const indexed: IndexedLayer[] = []
    for (const layer of inputs) {
      indexed.push(await indexedLayer(layer))
    }
    let imageBytes = 0
    for (const { slot, blks } of keysInRange(indexed, this.#source.slots, plan)) {
      if (isPageClass(this.#source.slots.cls(slot))) imageBytes += blks.length * PAGE_GUESS_BYTES
    }
    return inputs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) >= imageBytes
  }

  /** Called in one step with the planning. */
  #layersOf(shapes: readonly LayerShape[]): Layer[] {
    return shapes.map((shape) => this.#store.layers.layerOf(shape))
  }

  async #jobBase(range: KeyRange, lsn: Lsn) {
    // What lies in object storage only is fetched here, so that the job finds it on disk. Where it
    // cannot be, the job reads the object.
    for (const layer of layersOfRange(this.#source, range, lsn + 1)) {
      await layer.makeResident().catch(() => undefined)
    }
    return {
      ...this.#ids,
      // In one step with the choice of the job's inputs and with the start of the job.
      source: describeRange(this.#source, range, lsn + 1),
      owner: this.#store.owner,
      generation: this.#store.generation,
      ...this.#store.stripes,
      layerBytes: this.#context.limits.imageLayerBytes,
    }
  }

  #stopSignal(stop: AbortSignal | null): AbortSignal {
    return stop ? AbortSignal.any([stop, this.#signal]) : this.#signal
  }
}
