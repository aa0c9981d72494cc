/**
 * Bottom-most compaction: rewrites one column's history at and below a horizon, so that only the
 * states at the retained points are left of it. What lies above the horizon stays as it is.
 *
 *   lowest point      horizon
 *        |  point       |
 *   =====|====|====|====|=======>  LSN
 *   image|    delta     | what reached across
 *
 * The image says all about the column at the lowest point, so nothing below it is needed. The delta
 * holds, for each point above, what is new there: a few records or a page. Layers that reach across
 * the horizon or out of the column are copied as far as they do, when there is such a delta; without
 * one they stay, and the image hides what is not needed.
 *
 * Values are read as any reader would, through the layers as they are, so the result is right by
 * construction; and the new layers replace the old ones in one step of the map. A job that fails or
 * is stopped leaves nothing behind, and may be run again.
 *
 * Memory: the indexes of the layers that are read, the job's chunk cache, 32 keys with a value for
 * each point that changed them, and the indexes of three files being written.
 */
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { isPageClass, ValueKind } from '../keyspace/key-class.ts'
import { isMaxKey, isMinKey, keyAfter, keyBefore, type KeyRange } from '../keyspace/key-range.ts'
import { compareKeys, MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import type { Layer, LayerEntry } from '../layers/layer.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { type ReadSource, readVersions, type Version } from '../read/read-plan.ts'
import type { Appliers } from '../read/reconstruct.ts'
import { type Keep, PointWalk } from './bottommost-key.ts'
import { isCut } from './bottommost-plan.ts'
import { BATCH_KEYS, type ImageValue, loadedInputs, valueOf } from './image-job.ts'
import type { BottomJob, JobEnv } from './job.ts'
import { LayerOutput, type OutputPlace } from './layer-output.ts'
import { blockLimit, keysInRange } from './range-keys.ts'
import { copyRows } from './row-copy.ts'

export interface BottomWork extends KeyRange {
  source: ReadSource
  inputs: readonly Layer[]
  /** Ascending; the last is the horizon. */
  points: readonly Lsn[]
  oldestLsn: Lsn
  hasBase: boolean
  place: OutputPlace
  appliers: Appliers
  isStopping: () => boolean
}

/** Returns the layers that take the inputs' place. Throws `unavailable` when stopped. */
export async function compactBottom(job: BottomJob, env: JobEnv): Promise<LayerEntry[]> {
  const source = env.open(job.source)
  return await rewriteBottom({
    ...job,
    source,
    inputs: await loadedInputs(source, job.inputs),
    place: { ...job, folder: job.source.folder },
    appliers: env.appliers,
    isStopping: () => env.isStopping(),
  })
}

/** As `compactBottom`, over layers that are open. A failure leaves no file. */
export async function rewriteBottom(work: BottomWork): Promise<LayerEntry[]> {
  const rewrite = new BottomRewrite(work)
  try {
    await rewrite.keys()
    await rewrite.remainders()
    return await rewrite.finish()
  } catch (error) {
    await rewrite.abort()
    throw error
  }
}

class BottomRewrite {
  readonly #work: BottomWork
  readonly #lowestLsn: Lsn
  readonly #horizonLsn: Lsn
  /** The state at the lowest point. */
  readonly #base: LayerOutput
  /** What is new at the points above it. */
  readonly #delta: LayerOutput
  readonly #remainders: LayerOutput[] = []

  constructor(work: BottomWork) {
    const { points, oldestLsn, place, source } = work
    this.#work = work
    this.#lowestLsn = points[0] as Lsn
    this.#horizonLsn = points[points.length - 1] as Lsn
    const lowestLsn = this.#lowestLsn
    this.#base = new LayerOutput(
      place,
      { kind: LayerKind.Image, startLsn: lowestLsn, endLsn: lowestLsn + 1, floorLsn: oldestLsn },
      source.slots,
      work.firstKey,
    )
    this.#delta = this.#deltaOutput(lowestLsn + 1, this.#horizonLsn + 1)
  }

  /** Writes what is kept of every key. */
  async keys(): Promise<void> {
    const { source, inputs, points } = this.#work
    for (const { slot, blks } of keysInRange(inputs, source.slots, this.#work)) {
      const limits: (number | null)[] = []
      for (const lsn of points) limits.push(await blockLimit(source, slot, lsn))
      for (let at = 0; at < blks.length; at += BATCH_KEYS) {
        this.#checkStop()
        const batch = blks.subarray(at, at + BATCH_KEYS)
        const keeps = await this.#decide(slot, batch, limits)
        const values = await Promise.all(
          keeps.map((kept, index) => this.#valuesOf(slot, batch[index] as number, kept)),
        )
        for (const [index, blk] of batch.entries()) {
          await this.#write(slot, blk, keeps[index] as Keep<Version>[], values[index] ?? [])
        }
        await this.#base.cut()
        await this.#delta.cut()
      }
    }
  }

  /** Copies what of the inputs lies outside of what was rewritten. */
  async remainders(): Promise<void> {
    const { inputs, firstKey, lastKey, points } = this.#work
    for (const layer of inputs) {
      if (!isCut(layer, points)) continue
      this.#checkStop()
      if (compareKeys(layer.id.firstKey, firstKey) < 0 && !isMinKey(firstKey)) {
        await this.#copy(layer, { firstKey: MIN_KEY, lastKey: keyBefore(firstKey) }, -1)
      }
      if (layer.id.kind === LayerKind.Delta && layer.endLsn > this.#horizonLsn + 1) {
        await this.#copy(layer, { firstKey, lastKey }, this.#horizonLsn)
      }
      if (compareKeys(layer.id.lastKey, lastKey) > 0 && !isMaxKey(lastKey)) {
        await this.#copy(layer, { firstKey: keyAfter(lastKey), lastKey: MAX_KEY }, -1)
      }
    }
  }

  async finish(): Promise<LayerEntry[]> {
    const { hasBase, lastKey } = this.#work
    // Also without any key: it says that there is none.
    if (!hasBase) await this.#base.endAt(lastKey)
    const outputs = [this.#base, this.#delta, ...this.#remainders]
    const entries: LayerEntry[] = []
    for (const output of outputs) entries.push(...(await output.finish()))
    return entries
  }

  async abort(): Promise<void> {
    for (const output of [this.#base, this.#delta, ...this.#remainders]) await output.abort()
  }

  /** What is kept of each key. Keys that ask for the same point are read together. */
  async #decide(
    slot: number,
    blks: Uint32Array,
    limits: readonly (number | null)[],
  ): Promise<Keep<Version>[][]> {
    const { source, points, oldestLsn } = this.#work
    const walks = Array.from(blks, (blk) => {
      const isAlive = (point: number) => blk < (limits[point] ?? Number.POSITIVE_INFINITY)
      return new PointWalk<Version>(points, oldestLsn, isAlive)
    })
    for (;;) {
      const point = walks.reduce((highest, walk) => Math.max(highest, walk.next), -1)
      if (point < 0) return walks.map((walk) => walk.keeps())
      const asking = [...walks.entries()].filter(([, walk]) => walk.next === point)
      const keys = asking.map(([index]) => ({ slot, blk: blks[index] as number }))
      const chains = await readVersions(source, keys, (points[point] as Lsn) + 1)
      for (const [index, [, walk]] of asking.entries()) walk.take(chains[index] as Version[])
    }
  }

  /** The value of each part that is kept as one; null for the others. */
  #valuesOf(
    slot: number,
    blk: number,
    keeps: readonly Keep<Version>[],
  ): Promise<(ImageValue | null)[]> {
    const { source, appliers } = this.#work
    return Promise.all(
      keeps.map(async (keep) => {
        if (keep.how === 'gone') return null
        if (keep.how !== 'versions')
          return await valueOf(source.slots.key(slot, blk), keep.chain, appliers)
        const [only, ...more] = keep.versions
        if (!only || more.length > 0 || only.kind !== ValueKind.Image) return null
        return { kind: ValueKind.Image, bytes: only.value }
      }),
    )
  }

  async #write(
    slot: number,
    blk: number,
    keeps: readonly Keep<Version>[],
    values: readonly (ImageValue | null)[],
  ): Promise<void> {
    let last: ImageValue | null = null
    for (const [index, keep] of keeps.entries()) {
      const value = values[index] ?? null
      // An image layer repeats what was the same at the point below.
      const isSame = value !== null && last !== null && isEqual(value, last)
      last = value
      if (isSame) continue
      if (keep.how === 'base') await this.#writeBase(slot, blk, value)
      else if (keep.how === 'gone') await this.#writeGone(slot, blk, keep.lsn)
      else if (keep.how === 'page' && value) {
        await this.#delta.add(slot, blk, keep.lsn, value.kind, value.bytes)
      } else if (keep.how === 'versions') {
        for (const { lsn, kind, value: bytes } of keep.versions) {
          await this.#delta.add(slot, blk, lsn, kind, bytes)
        }
      }
    }
  }

  async #writeBase(slot: number, blk: number, value: ImageValue | null): Promise<void> {
    // Tombstones stay: a wider image that reaches out of the range is left below this one, and may
    // hold what was dropped; so may an ancestor.
    if (this.#work.hasBase || !value) return
    await this.#base.add(slot, blk, this.#lowestLsn, value.kind, value.bytes)
  }

  /** A read finds nothing at the point: of a page that is zeros. */
  async #writeGone(slot: number, blk: number, lsn: Lsn): Promise<void> {
    const isPage = isPageClass(this.#work.source.slots.cls(slot))
    const kind = isPage ? ValueKind.ZeroPage : ValueKind.Tombstone
    await this.#delta.add(slot, blk, lsn, kind, Buffer.alloc(0))
  }

  async #copy(layer: Layer, range: KeyRange, aboveLsn: Lsn): Promise<void> {
    const { place, source } = this.#work
    const { id } = layer
    const isImage = id.kind === LayerKind.Image
    const firstKey = compareKeys(range.firstKey, id.firstKey) > 0 ? range.firstKey : id.firstKey
    const lastKey = compareKeys(range.lastKey, id.lastKey) < 0 ? range.lastKey : id.lastKey
    const startLsn = Math.max(id.startLsn, aboveLsn + 1)
    const output = isImage
      ? new LayerOutput(place, { ...id, endLsn: layer.endLsn }, source.slots, firstKey)
      : this.#deltaOutput(startLsn, layer.endLsn)
    this.#remainders.push(output)
    await copyRows(layer, source.slots, range, aboveLsn, output)
    // An image says that keys are missing, also when it has none.
    if (isImage) await output.endAt(lastKey)
  }

  #deltaOutput(startLsn: Lsn, endLsn: Lsn): LayerOutput {
    const { place, source } = this.#work
    const span = { kind: LayerKind.Delta, startLsn, endLsn, floorLsn: startLsn }
    return new LayerOutput(place, span, source.slots, null)
  }

  #checkStop(): void {
    if (this.#work.isStopping()) {
      throw new ZenithError('unavailable', 'bottom-most compaction makes room and is run again')
    }
  }
}

function isEqual(a: ImageValue, b: ImageValue): boolean {
  return a.kind === b.kind && a.bytes.equals(b.bytes)
}
