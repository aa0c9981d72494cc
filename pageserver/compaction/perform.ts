/** Runs one job in the thread that it is called in. */
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { shardIdentity } from '#libs/sharding.ts'
import { ShardFilter } from '../ingest/shard-filter.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { ChunkCache } from '../layers/chunk-cache.ts'
import { Layer, type LayerContext, type LayerEntry } from '../layers/layer.ts'
import { LayerMap } from '../layers/layer-map.ts'
import type { ReadSource } from '../read/read-plan.ts'
import type { Appliers } from '../read/reconstruct.ts'
import { compactBottom } from './bottommost-job.ts'
import { makeImages } from './image-job.ts'
import { placeKey } from './job-source.ts'
import { rewriteOwn } from './own-job.ts'
import type { CompactionJob, JobEnv, JobTimeline } from './job.ts'
import { mergeL0 } from './l0-merge.ts'

/** Neighbouring keys share chunks; more would only hold what is not read again. */
const CACHE_BYTES = 8 * 1024 * 1024

export interface JobPlace {
  /** For layers whose local file is missing or damaged. */
  store: ObjectStore
  appliers: Appliers
  isStopping: () => boolean
}

/**
 * Gives the new layer files, which are in the job's folder. Throws `unavailable` when it is
 * stopped.
 */
export async function performJob(job: CompactionJob, place: JobPlace): Promise<LayerEntry[]> {
  const slots = new SlotTable()
  const cache = new ChunkCache(CACHE_BYTES)
  const opened: Layer[] = []
  const identity = shardIdentity(job.tenantId, job.stripeBlocks)
  const shard = identity && new ShardFilter(identity, slots)
  const open = (timeline: JobTimeline): ReadSource => {
    const context: LayerContext = {
      folder: timeline.folder,
      objectFolder: (place) => timeline.objectFolders[placeKey(place)] ?? '',
      shard,
      store: place.store,
      slots,
      cache,
    }
    const layers = timeline.layers.map((entry) => new Layer(entry, context))
    opened.push(...layers)
    const { parent } = timeline
    return {
      slots,
      memory: [],
      layers: new LayerMap(context, layers),
      parent: parent && { source: open(parent.timeline), lsn: parent.lsn },
    }
  }
  try {
    const { appliers, isStopping } = place
    return await perform(job, { slots, appliers, open, isStopping })
  } finally {
    for (const layer of opened) await layer.close()
  }
}

function perform(job: CompactionJob, env: JobEnv): Promise<LayerEntry[]> {
  if (job.kind === 'l0') return mergeL0(job, env)
  if (job.kind === 'own') return rewriteOwn(job, env)
  return job.kind === 'images' ? makeImages(job, env) : compactBottom(job, env)
}
