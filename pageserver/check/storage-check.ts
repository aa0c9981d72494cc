/**
 * Looks through object storage: whether everything that manifests name is there and whole, and what
 * nobody names. It needs nothing but the store, so it works on a bucket whose services are gone, and
 * changes nothing unless told to.
 *
 * An object that no manifest names may be on its way in (an upload) or out (the deletion queue) while
 * a page server runs. Those bear the generation of the newest manifest. Only what bears an older one
 * is an orphan: whoever wrote it writes no manifest any more that counts.
 */
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { parseTimelineId, type TimelineId } from '#libs/ids.ts'
import type { ObjectEntry, ObjectStore } from '#libs/object-store/object-store.ts'
import { layerName, parseLayerName } from '../layers/layer-name.ts'
import { type LayerEntry, layerKey } from '../layers/layer.ts'
import type { Manifest } from '../remote/manifest.ts'
import { ManifestStore } from '../remote/manifest-store.ts'
import { checkLayer } from './layer-check.ts'

export interface StorageReport {
  /** A tenant that is spread over shards counts once, and so does a timeline of it. */
  tenants: number
  /** Of tenants that are spread over shards, each with its own layers of the timelines. */
  shards: number
  timelines: number
  layers: number
  layerBytes: number
  /** What is missing or damaged, one sentence each. */
  problems: string[]
  /** Named by nobody. */
  orphans: ObjectEntry[]
  /** Named by no manifest, but perhaps on its way in or out. */
  unsettled: ObjectEntry[]
  removedOrphans: number
}

export interface StorageCheckOptions {
  /** Do not read data, only sizes, footers and indexes. */
  quick: boolean
  removeOrphans: boolean
  onProgress: (done: {
    layers: number
    bytes: number
    of: { layers: number; bytes: number }
  }) => void
}

const TENANTS = 'tenants'
const WAL = 'wal'
const LAYERS_AT_ONCE = 4
const NEWEST = /\/m-([0-9a-f]{8})-[0-9a-f]{8}$/

interface FoundTimeline {
  timelineId: TimelineId
  folder: string
  /** Of the newest manifest; 0 without one. */
  generation: number
  manifest: Manifest | null
  layers: ObjectEntry[]
}

interface NamedLayer {
  object: string
  entry: LayerEntry
  timeline: FoundTimeline
}

export async function checkStorage(
  store: ObjectStore,
  options: StorageCheckOptions,
): Promise<StorageReport> {
  const report: StorageReport = {
    tenants: 0,
    shards: 0,
    timelines: 0,
    layers: 0,
    layerBytes: 0,
    problems: [],
    orphans: [],
    unsettled: [],
    removedOrphans: 0,
  }
  const named: NamedLayer[] = []
  const byTenant = new Map<string, FoundTimeline[]>()
  const known = new Set<string>()
  const tenants = new Set<string>()
  const whole = new Set<string>()
  for (const tenant of await foldersIn(store, TENANTS)) {
    const timelines = await timelinesOf(store, tenant, report)
    // The folder of a shard bears the numbers of the shard behind the tenant's id.
    const wholeTenant = tenant.slice(0, 32)
    for (const { timelineId } of timelines) known.add(`${wholeTenant}/${timelineId}`)
    const readable = timelines.filter(({ manifest }) => manifest !== null)
    if (timelines.length > 0) tenants.add(wholeTenant)
    if (timelines.length > 0 && tenant !== wholeTenant) report.shards++
    for (const { timelineId } of readable) whole.add(`${wholeTenant}/${timelineId}`)
    named.push(...layersOf(tenant, timelines))
    byTenant.set(wholeTenant, [...(byTenant.get(wholeTenant) ?? []), ...timelines])
  }
  report.tenants = tenants.size
  report.timelines = whole.size
  // After a split shards name objects in the folders of those that they came from.
  const used = new Set(named.map(({ object }) => object))
  for (const timelines of byTenant.values()) sortOut(timelines, used, report)
  await addForgottenWal(store, known, report)
  await checkLayers(store, unique(named), options, report)
  if (options.removeOrphans && report.problems.length === 0) {
    await store.deleteAll(report.orphans.map(({ name }) => name))
    report.removedOrphans = report.orphans.length
  }
  return report
}

async function timelinesOf(
  store: ObjectStore,
  tenant: string,
  report: StorageReport,
): Promise<FoundTimeline[]> {
  const found: FoundTimeline[] = []
  for (const name of await foldersIn(store, `${TENANTS}/${tenant}/timelines`)) {
    const folder = `${TENANTS}/${tenant}/timelines/${name}`
    const { objects } = await store.list(folder)
    // A local store keeps the folder of what has gone.
    if (objects.length === 0) continue
    const generations = objects.map((object) => NEWEST.exec(object.name)?.[1] ?? '0')
    const generation = Math.max(0, ...generations.map((text) => Number.parseInt(text, 16)))
    const timeline: FoundTimeline = {
      timelineId: parseTimelineId(name),
      folder,
      generation,
      manifest: null,
      layers: objects.filter((object) => object.name.startsWith(`${folder}/layers/`)),
    }
    found.push(timeline)
    try {
      timeline.manifest = await newestManifest(store, timeline)
    } catch (error) {
      report.problems.push(`timeline ${name} of tenant ${tenant}: ${errorMessage(error)}`)
    }
  }
  return found
}

function newestManifest(store: ObjectStore, timeline: FoundTimeline): Promise<Manifest | null> {
  const { folder, generation } = timeline
  return new ManifestStore(store, `${folder}/manifests`, generation).load()
}

function layersOf(tenant: string, timelines: readonly FoundTimeline[]): NamedLayer[] {
  return timelines.flatMap((timeline) =>
    // One that is being deleted needs nothing any more.
    (timeline.manifest?.state === 'deleted' ? [] : (timeline.manifest?.layers ?? [])).map(
      (entry) => ({
        object: objectOf(tenant, timeline, entry),
        entry,
        timeline,
      }),
    ),
  )
}

function objectOf(tenant: string, { timelineId }: FoundTimeline, entry: LayerEntry): string {
  const owner = entry.origin ?? timelineId
  return `${TENANTS}/${entry.splitFrom ?? tenant}/timelines/${owner}/layers/${layerName(entry.id)}`
}

/** Layers may be named by several timelines: by those that took them over. */
function unique(named: readonly NamedLayer[]): NamedLayer[] {
  return [...new Map(named.map((one) => [one.object, one])).values()]
}

/** With a manifest that cannot be read nobody knows what it names, so nothing is called an orphan. */
function sortOut(
  timelines: readonly FoundTimeline[],
  used: ReadonlySet<string>,
  report: StorageReport,
): void {
  const unreadable = timelines.some(({ manifest, generation }) => !manifest && generation > 0)
  for (const { layers, generation } of timelines) {
    for (const object of layers) {
      if (used.has(object.name)) continue
      const settled = !unreadable && generationOf(object.name) < generation
      ;(settled ? report.orphans : report.unsettled).push(object)
    }
  }
}

function generationOf(object: string): number {
  try {
    return parseLayerName(object.slice(object.lastIndexOf('/') + 1)).generation
  } catch {
    // Not a name of ours: never in the way of one.
    return Number.POSITIVE_INFINITY
  }
}

/** WAL of timelines that no page server ever wrote a manifest of may belong to one just created. */
async function addForgottenWal(
  store: ObjectStore,
  known: ReadonlySet<string>,
  report: StorageReport,
): Promise<void> {
  for (const tenant of await foldersIn(store, WAL)) {
    for (const timeline of await foldersIn(store, `${WAL}/${tenant}`)) {
      if (known.has(`${tenant}/${timeline}`)) continue
      const { objects } = await store.list(`${WAL}/${tenant}/${timeline}`)
      report.unsettled.push(...objects)
    }
  }
}

async function checkLayers(
  store: ObjectStore,
  named: readonly NamedLayer[],
  options: StorageCheckOptions,
  report: StorageReport,
): Promise<void> {
  const of = {
    layers: named.length,
    bytes: named.reduce((sum, one) => sum + one.entry.sizeBytes, 0),
  }
  const waiting = [...named]
  const work = async () => {
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const problem = await problemOf(store, next, options)
      if (problem !== null) report.problems.push(problem)
      report.layers++
      report.layerBytes += next.entry.sizeBytes
      options.onProgress({ layers: report.layers, bytes: report.layerBytes, of })
    }
  }
  await Promise.all(Array.from({ length: LAYERS_AT_ONCE }, work))
}

async function problemOf(
  store: ObjectStore,
  { object, entry, timeline }: NamedLayer,
  options: StorageCheckOptions,
): Promise<string | null> {
  try {
    await checkLayer(store, object, entry, options)
    return null
  } catch (error) {
    if (!(error instanceof ZenithError)) throw error
    if (error.code !== 'not_found' && error.code !== 'corrupt') throw error
    // A page server that runs may have given it up since its manifest was read.
    if (error.code === 'not_found' && !(await isStillNamed(store, timeline, entry))) return null
    return error.message
  }
}

async function isStillNamed(
  store: ObjectStore,
  timeline: FoundTimeline,
  entry: LayerEntry,
): Promise<boolean> {
  const newest = { ...timeline, generation: 0xffffffff }
  const manifest = await newestManifest(store, newest)
  const key = layerKey(entry)
  return manifest?.layers.some((layer) => layerKey(layer) === key) ?? false
}

async function foldersIn(store: ObjectStore, folder: string): Promise<string[]> {
  return (await store.list(folder, { delimited: true })).folders
}
