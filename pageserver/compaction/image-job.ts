/**
 * Makes image layers of one range of keys: the value, at one LSN, of every key that changed since
 * the floor. A read of the tip then needs no delta below them, so its work stays bounded however
 * long the history grows.
 *
 * A key of the range that is not in them has no version in [floor, LSN], and reads go on below the
 * floor. Blocks past the end of their relation, and of dropped relations, are left out. So the cost
 * follows what changed, not the size of the database.
 *
 * Each file says what it says of its own keys alone, so a job that is asked to make room, or has
 * made enough, ends with the files that it has, and the next one goes on after them.
 *
 * Memory: the indexes of the layers that are read, the job's chunk cache, 32 pages and what they are
 * made of, and the file being written (its index, and a few chunks).
 */
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { isPageClass, ValueKind } from '../keyspace/key-class.ts'
import type { KeyRange } from '../keyspace/key-range.ts'
import { formatKey, type Key } from '../keyspace/key.ts'
import { type Layer, type LayerEntry, layerKey } from '../layers/layer.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { type ReadSource, readVersions, type Version } from '../read/read-plan.ts'
import { type Appliers, reconstructPage } from '../read/reconstruct.ts'
import type { ImagesJob, JobEnv } from './job.ts'
import { LayerOutput, type OutputPlace } from './layer-output.ts'
import { blockLimit, keysInRange } from './range-keys.ts'

/** Keys read and rebuilt together. */
export const BATCH_KEYS = 32
const EMPTY = Buffer.alloc(0)

export interface ImageWork extends KeyRange {
  source: ReadSource
  /** Layers whose keys are imaged. */
  inputs: readonly Layer[]
  imageLsn: Lsn
  floorLsn: Lsn
  place: OutputPlace
  appliers: Appliers
  isStopping: () => boolean
  /** The work ends early after so many files. */
  maxFiles: number
}

/** Returns the new layers: of the whole range, or of its first part. */
export async function makeImages(job: ImagesJob, env: JobEnv): Promise<LayerEntry[]> {
  const source = env.open(job.source)
  return await writeImages({
    ...job,
    source,
    inputs: await loadedInputs(source, job.inputs),
    place: { ...job, folder: job.source.folder },
    appliers: env.appliers,
    isStopping: () => env.isStopping(),
  })
}

/** The layers with these keys. */
export async function loadedInputs(source: ReadSource, keys: readonly string[]): Promise<Layer[]> {
  const wanted = new Set(keys)
  const layers = source.layers.newestFirst.filter((layer) => wanted.has(layerKey(layer.entry)))
  if (layers.length !== wanted.size) {
    throw new ZenithError('internal', 'a compaction job lacks some of its layers')
  }
  for (const layer of layers) await layer.load()
  return layers
}

/** Writes the files, durably under their names. */
export async function writeImages(work: ImageWork): Promise<LayerEntry[]> {
  const { source, imageLsn, floorLsn, place, inputs, maxFiles } = work
  const span = { kind: LayerKind.Image, startLsn: imageLsn, endLsn: imageLsn + 1, floorLsn }
  const output = new LayerOutput(place, span, source.slots, work.firstKey)
  try {
    for (const { slot, blks } of keysInRange(inputs, source.slots, work)) {
      const limit = await blockLimit(source, slot, imageLsn)
      const kept = limit === null ? blks : blks.filter((blk) => blk < limit)
      for (let at = 0; at < kept.length; at += BATCH_KEYS) {
        if (work.isStopping() || output.fileCount >= maxFiles) return await output.finish()
        await addBatch(work, slot, kept.subarray(at, at + BATCH_KEYS), output)
        await output.cut()
      }
    }
    await output.endAt(work.lastKey)
    return await output.finish()
  } catch (error) {
    await output.abort()
    throw error
  }
}

async function addBatch(
  work: ImageWork,
  slot: number,
  blks: Uint32Array,
  output: LayerOutput,
): Promise<void> {
  const { source, imageLsn, appliers } = work
  const keys = Array.from(blks, (blk) => ({ slot, blk }))
  const chains = await readVersions(source, keys, imageLsn + 1)
  const values = await Promise.all(
    chains.map((chain, index) =>
      valueOf(source.slots.key(slot, blks[index] as number), chain, appliers),
    ),
  )
  for (const [index, value] of values.entries()) {
    // Tombstones stay: an older image, which a read comes to when this one lacks the key, may hold
    // what was dropped.
    if (!value) continue
    await output.add(slot, blks[index] as number, imageLsn, value.kind, value.bytes)
  }
}

/** What an image holds of a key: a page, a page of zeros, a blob, or that the blob is gone. */
export interface ImageValue {
  kind: ValueKind
  bytes: Buffer
}

/** The value that a chain of versions (newest first) gives; null when there is no version. */
export async function valueOf(
  key: Key,
  chain: readonly Version[],
  appliers: Appliers,
): Promise<ImageValue | null> {
  const newest = chain[0]
  if (newest === undefined) return null
  const { kind, value } = newest
  if (kind === ValueKind.ZeroPage || kind === ValueKind.Tombstone) return { kind, bytes: EMPTY }
  if (isPageClass(key.cls)) {
    const page = await reconstructPage(key, chain, appliers)
    return page && { kind: ValueKind.Image, bytes: page }
  }
  if (kind === ValueKind.Image) return { kind, bytes: value }
  throw new ZenithError('corrupt', `key ${formatKey(key)} of a blob class holds a record`)
}
