/**
 * Merges L0 layers, each of all keys and a short span of LSNs, into L1 layers, each of few keys and
 * the whole span.
 *
 * The inputs' LSN ranges do not overlap, so a key's versions in the output are those of the oldest
 * input, then of the next: keys are merged, versions are copied in runs as they lie. Of layers
 * taken over, from an ancestor or at a split, only what counts is copied.
 *
 * Memory: the indexes of the inputs (11 to 15 bytes a row), of the file being written, and per input two
 * windows of eight chunks of 64 KiB: about 12 MiB for ten inputs, and the job's chunk cache.
 */
import { assert, ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Layer, LayerEntry } from '../layers/layer.ts'
import { chunkEntryLsn } from '../layers/layer-format.ts'
import { ChunkReader } from './chunk-reader.ts'
import type { JobEnv, L0Job } from './job.ts'
import { L0Output } from './l0-output.ts'

/** A row fills at most one chunk, of about so many bytes. */
const ROW_BYTES = 64 * 1024

interface Input {
  layer: Layer
  chunks: ChunkReader
}

/** Where the merge stands in one input's rows of the current prefix. */
interface Cursor {
  input: Input
  row: number
  endRow: number
}

/** Returns the new layers. Throws `corrupt` for damaged inputs, `unavailable` when stopped. */
export async function mergeL0(job: L0Job, env: JobEnv): Promise<LayerEntry[]> {
  const layers = env.open(job.source).layers.newestFirst.toReversed()
  assert(layers.length > 0, 'a merge has layers to merge')
  for (const layer of layers) await layer.load()
  for (const [index, layer] of layers.entries()) {
    const next = layers[index + 1]
    assert(!next || layer.endLsn <= next.id.startLsn, 'layers to merge do not overlap')
  }
  const inputs = layers.map((layer) => ({ layer, chunks: new ChunkReader(layer) }))
  const startLsn = (layers[0] as Layer).id.startLsn
  const endLsn = (layers[layers.length - 1] as Layer).endLsn
  const output = new L0Output(job, env.slots, startLsn, endLsn)
  try {
    for (const slot of slotsInOrder(layers, env)) {
      await mergeSlot(job, slot, inputs, output, env)
    }
    return await output.finish()
  } catch (error) {
    await output.abort()
    throw error
  }
}

function slotsInOrder(layers: readonly Layer[], env: JobEnv): number[] {
  const { slots } = env
  const all = new Set<number>()
  for (const layer of layers) {
    for (const slot of layer.index.groupSlot) if (layer.countsPrefix(slot)) all.add(slot)
  }
  return [...all].sort((a, b) => slots.compare(a, b))
}

async function mergeSlot(
  job: L0Job,
  slot: number,
  inputs: readonly Input[],
  output: L0Output,
  env: JobEnv,
): Promise<void> {
  let cursors: Cursor[] = []
  for (const input of inputs) {
    const { index } = input.layer
    if (!input.layer.countsPrefix(slot)) continue
    const group = index.findGroup(slot)
    if (group < 0) continue
    const { groupFirstRow } = index.columns
    const row = groupFirstRow[group] as number
    cursors.push({ input, row, endRow: groupFirstRow[group + 1] as number })
  }
  while (cursors.length > 0) {
    if (env.isStopping()) throw new ZenithError('unavailable', 'compaction is shutting down')
    let blk = Number.POSITIVE_INFINITY
    for (const cursor of cursors) blk = Math.min(blk, blkOf(cursor))
    await mergeKey(job, slot, blk, cursors, output)
    if (cursors.some(isAtEnd)) cursors = cursors.filter((cursor) => !isAtEnd(cursor))
  }
}

async function mergeKey(
  job: L0Job,
  slot: number,
  blk: number,
  cursors: readonly Cursor[],
  output: L0Output,
): Promise<void> {
  let rows = 0
  for (const cursor of cursors) rows += rowsOf(cursor, blk)
  let started = false
  for (const cursor of cursors) {
    const { layer, chunks } = cursor.input
    const { index } = layer
    const { rowBlk } = index.columns
    for (; cursor.row < cursor.endRow && rowBlk[cursor.row] === blk; cursor.row++) {
      if (!layer.counts(slot, blk)) continue
      const number = index.chunkOf(cursor.row)
      const chunk = chunks.at(number) ?? (await chunks.load(number))
      const first = index.entryOf(cursor.row)
      const count = entriesBelow(chunk, first, index.countOf(cursor.row), layer.ceilingLsn)
      if (count === 0) continue
      if (!started) await output.startKey(slot, blk, rows * ROW_BYTES > job.layerBytes)
      started = true
      const lastLsn = chunkEntryLsn(chunk, first + count - 1)
      await output.addRun(chunk, first, count, chunkEntryLsn(chunk, first), lastLsn)
    }
  }
}

function blkOf({ input, row }: Cursor): number {
  return input.layer.index.columns.rowBlk[row] as number
}

function isAtEnd({ row, endRow }: Cursor): boolean {
  return row === endRow
}

/** How many rows of a key come next. */
function rowsOf({ input, row, endRow }: Cursor, blk: number): number {
  const { rowBlk } = input.layer.index.columns
  let end = row
  while (end < endRow && rowBlk[end] === blk) end++
  return end - row
}

/** Of a run of entries, oldest first, those that count. */
function entriesBelow(chunk: Buffer, first: number, count: number, ceilingLsn: Lsn | null): number {
  let below = count
  while (ceilingLsn !== null && below > 0 && chunkEntryLsn(chunk, first + below - 1) >= ceilingLsn)
    below--
  return below
}
