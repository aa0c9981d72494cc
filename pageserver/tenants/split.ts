/**
 * A shard that begins as a part of another one, its parent: it takes over the parent's timelines as
 * the parent's newest manifests have them. It writes manifests of its own that refer to the parent's
 * layers, and copies no data. Of those layers only the keys count that belong to the shard
 * (`LayerEntry.splitFrom`); compaction writes layers of its own in their place.
 *
 * The parent is stale by then: nothing in its folder is deleted any more, and no WAL is let go that
 * its newest manifest does not cover. Each timeline is taken over by one put, and one that is here
 * already is left alone, so a crash anywhere is answered by doing it again. It is done before the
 * tenant is loaded, and only as long as the control plane says that the split is under way.
 */
import { link, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { assert, ZenithError } from '#libs/errors.ts'
import { parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import { shardNumberOf, wholeTenant } from '#libs/sharding.ts'
import { type LayerEntry, layerFileName } from '../layers/layer.ts'
import type { Manifest } from '../remote/manifest.ts'
import { ManifestStore } from '../remote/manifest-store.ts'
import { localFolder, manifestFolder, statisticsFolder, timelinesFolder } from '../remote/paths.ts'
import { manifestStoreOf } from '../timeline/layer-store.ts'
import type { StorageContext } from '../timeline/storage-context.ts'

/** The shard, or the tenant without shards, that a shard is split from. */
export interface SplitParent {
  tenantId: TenantId
  /** The newest that was given out for it. */
  generation: number
}

/** Timelines that are taken over at once. */
const AT_ONCE = 8

/** Throws `corrupt` when a manifest of the parent cannot be read: nobody knows what it names. */
export async function takeOverFrom(
  parent: SplitParent,
  tenantId: TenantId,
  generation: number,
  context: StorageContext,
): Promise<void> {
  assert(isParentOf(parent.tenantId, tenantId), `${parent.tenantId} is split into ${tenantId}`)
  const { folders } = await context.store.list(timelinesFolder(parent.tenantId), {
    delimited: true,
  })
  const queue = folders.map(parseTimelineId)
  const work = async () => {
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      await takeOver(parent, { tenantId, timelineId: next, generation }, context)
      context.onStep?.('split-timeline')
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work))
}

/** True when all that belongs to the child belonged to the parent. */
export function isParentOf(parent: TenantId, child: TenantId): boolean {
  const from = shardNumberOf(parent) ?? { number: 0, count: 1 }
  const to = shardNumberOf(child)
  if (to === null || wholeTenant(parent) !== wholeTenant(child)) return false
  const isFiner = to.count > from.count && to.count % from.count === 0
  return isFiner && to.number % from.count === from.number
}

async function takeOver(
  parent: SplitParent,
  own: { tenantId: TenantId; timelineId: TimelineId; generation: number },
  context: StorageContext,
): Promise<void> {
  const { tenantId, timelineId, generation } = own
  const manifests = manifestStoreOf(context, tenantId, timelineId, generation)
  if ((await manifests.load()) !== null) return
  const folder = manifestFolder(parent.tenantId, timelineId)
  const manifest = await new ManifestStore(context.store, folder, parent.generation).load()
  // Without a manifest it never was a timeline; one that is deleted has nothing for us.
  if (manifest === null || manifest.state === 'deleted') return
  const layers = manifest.layers.map((entry) => ({ splitFrom: parent.tenantId, ...entry }))
  if (shardNumberOf(tenantId)?.number === 0) await copyStatistics(parent, own, context)
  if (manifest.state === 'active') await shareLocalFiles(parent, own, manifest, layers, context)
  await manifests.write({ ...manifest, layers })
}

/** What the parent has on this disk the child has too; what cannot be shared is fetched when needed. */
async function shareLocalFiles(
  parent: SplitParent,
  { tenantId, timelineId }: { tenantId: TenantId; timelineId: TimelineId },
  manifest: Manifest,
  layers: readonly LayerEntry[],
  context: StorageContext,
): Promise<void> {
  const from = localFolder(context.folder, parent.tenantId, timelineId)
  const to = localFolder(context.folder, tenantId, timelineId)
  await mkdir(to, { recursive: true })
  for (const [at, entry] of manifest.layers.entries()) {
    const name = layerFileName(layers[at] as LayerEntry)
    await link(join(from, layerFileName(entry)), join(to, name)).catch(() => undefined)
  }
}

/** A compute that starts where the last one ended gets the statistics that were kept there. */
async function copyStatistics(
  parent: SplitParent,
  { tenantId, timelineId }: { tenantId: TenantId; timelineId: TimelineId },
  { store }: StorageContext,
): Promise<void> {
  const { objects } = await store.list(statisticsFolder(parent.tenantId, timelineId))
  for (const { name } of objects) {
    const copy = `${statisticsFolder(tenantId, timelineId)}/${name.slice(name.lastIndexOf('/') + 1)}`
    const bundle = await store.get(name)
    await store.put(copy, bundle).catch((error: unknown) => {
      if (!(error instanceof ZenithError) || error.code !== 'already_exists') throw error
    })
  }
}
