/**
 * Writes a layer anew that a shard took over at a split, with the keys that belong to the shard. The
 * new layer tells of the same LSNs; an image also of the same range of keys, which it covers even
 * where it holds none: that a key is not in it says something. Of a delta without keys of ours
 * nothing is left.
 */
import { assert } from '#libs/errors.ts'
import type { LayerEntry } from '../layers/layer.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { JobEnv, OwnJob } from './job.ts'
import { LayerOutput } from './layer-output.ts'
import { copyRows } from './row-copy.ts'

/** Throws `corrupt` for a damaged layer. */
export async function rewriteOwn(job: OwnJob, env: JobEnv): Promise<LayerEntry[]> {
  const [layer] = env.open(job.source).layers.newestFirst
  assert(layer !== undefined && layer.origin === null, 'one layer of the timeline is rewritten')
  await layer.load()
  const { kind, startLsn, floorLsn, firstKey, lastKey } = layer.id
  const span = { kind, startLsn, endLsn: layer.endLsn, floorLsn }
  const isImage = kind === LayerKind.Image
  const place = { ...job, folder: job.source.folder }
  const output = new LayerOutput(place, span, env.slots, isImage ? firstKey : null)
  try {
    await copyRows(layer, env.slots, { firstKey, lastKey }, -1, output)
    if (isImage) await output.endAt(lastKey)
    return await output.finish()
  } catch (error) {
    await output.abort()
    throw error
  }
}
