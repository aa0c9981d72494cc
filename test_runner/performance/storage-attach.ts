/**
 * What depends on the number of layers alone: attach, a change of the manifest, a branch.
 * None of these reads a layer, so the layers are entries in a manifest and empty local files.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { newTenantId, newTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import { createLogger } from '#libs/log.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { KeyClass } from '../../pageserver/keyspace/key-class.ts'
import type { Layer, LayerEntry } from '../../pageserver/layers/layer.ts'
import { LayerKind, layerName } from '../../pageserver/layers/layer-name.ts'
import { ManifestStore } from '../../pageserver/remote/manifest-store.ts'
import { localFolder, manifestFolder } from '../../pageserver/remote/paths.ts'
import { TenantManager } from '../../pageserver/tenants/tenant-manager.ts'
import { toyRedo } from '../../pageserver/tenants/testing/toy-redo.ts'
import { median, type Report } from './report.ts'
import { timed } from './stopwatch.ts'

const ATTACHES = 3
const BRANCHES = 20
const CHANGES = 50
/** Layers that come and go with each change. */
const CHANGED_LAYERS = 2
const LAYER_BYTES = 128 * 1024 * 1024
/** Of 10 GB, or what a timeline has just after it was made. */
const SMALL = [1, 80]
/** Blocks per column, as merges cut them. */
const COLUMN_BLOCKS = 16_384
const DELTAS_PER_COLUMN = 30
const IMAGES_PER_COLUMN = 20
const START_LSN = 0x1000000
const LSN_STEP = 0x8000000

export interface Place {
  dir: string
  tenantId: TenantId
  timelineId: TimelineId
}

export async function measureAttach(sizes: { layers: number }, report: Report): Promise<void> {
  for (const layers of [...SMALL, sizes.layers]) {
    const dir = mkdtempSync(join(tmpdir(), 'zenith-attach-'))
    try {
      const place = { dir, tenantId: newTenantId(), timelineId: newTimelineId() }
      await writeTimeline(place, layers)
      await measureOne(place, layers, layers === sizes.layers, report)
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }
}

/** Columns of one relation, each with its deltas and images. */
function entriesOf(count: number, firstSerial = 0): LayerEntry[] {
  const perColumn = DELTAS_PER_COLUMN + IMAGES_PER_COLUMN
  return Array.from({ length: count }, (_, number) => {
    const index = number + firstSerial
    const column = Math.floor(index / perColumn)
    const place = index % perColumn
    const isImage = place >= DELTAS_PER_COLUMN
    const prefix = { cls: KeyClass.RelBlock, spc: 1663, db: 5, rel: 16_384, fork: 0 }
    const startLsn = START_LSN + (isImage ? place - DELTAS_PER_COLUMN : place) * LSN_STEP
    return {
      id: {
        kind: isImage ? LayerKind.Image : LayerKind.Delta,
        firstKey: { ...prefix, blk: column * COLUMN_BLOCKS },
        lastKey: { ...prefix, blk: (column + 1) * COLUMN_BLOCKS - 1 },
        startLsn,
        endLsn: isImage ? startLsn + 1 : startLsn + LSN_STEP,
        floorLsn: startLsn,
        generation: 1,
        serial: index,
      },
      sizeBytes: LAYER_BYTES,
      crc: index,
      origin: null,
      ceilingLsn: null,
    }
  })
}

/** A timeline of so many layers. */
export async function writeTimeline(
  { dir, tenantId, timelineId }: Place,
  count: number,
): Promise<void> {
  const layers = entriesOf(count)
  const folder = localFolder(dir, tenantId, timelineId)
  mkdirSync(folder, { recursive: true })
  for (const { id } of layers) writeFileSync(join(folder, layerName(id)), '')
  const store = new LocalObjectStore(join(dir, 'objects'))
  const manifests = new ManifestStore(store, manifestFolder(tenantId, timelineId), 1)
  const lsn = START_LSN + (DELTAS_PER_COLUMN + 1) * LSN_STEP
  await manifests.write({
    facts: {
      ancestorTimelineId: null,
      ancestorLsn: null,
      startLsn: START_LSN,
      systemId: '1',
      pgVersion: 170011,
    },
    state: 'active',
    gcCutoffLsn: null,
    leasedLsns: [],
    diskConsistentLsn: lsn,
    prevRecordLsn: null,
    layers,
  })
}

export function managerOf({ dir }: Place): TenantManager {
  return new TenantManager({
    dataDir: dir,
    objectStore: new LocalObjectStore(join(dir, 'objects')),
    ...toyRedo(),
    log: createLogger('attach'),
    limits: { imageDepth: 1e9, imageAfterDeltas: 1e9, imageDeltaBytes: 1e15 },
  })
}

async function measureOne(
  place: Place,
  count: number,
  isLarge: boolean,
  report: Report,
): Promise<void> {
  const { tenantId, timelineId } = place
  const add = (name: string, unit: string, how: string, goal: string, figure: number) =>
    report.add({ name, unit, better: 'less', how, goal }, 'zenith', figure)
  const what = `${count.toLocaleString('en-US')} layers`
  for (let generation = 2; generation < 2 + (isLarge ? ATTACHES : 1); generation++) {
    const manager = managerOf(place)
    const used = await timed(() => manager.attach(tenantId, generation))
    if (isLarge) {
      const how = `manifest and folder of ${what}, a new process' work`
      add(`attach, ${what}`, 's', how, '<= 2', used.seconds)
      add(`attach, ${what}, thread`, 'cpu s', how, '<= 2', used.threadSeconds)
    }
    await measureBranches(manager, place, count, report)
    const delays = monitorEventLoopDelay({ resolution: 1 })
    delays.enable()
    const { threadSeconds } = await timed(() =>
      manager.tenant(tenantId).timeline(timelineId).change({ state: 'active' }),
    )
    delays.disable()
    if (isLarge) {
      const longestMs = delays.max / 1e6
      add(`manifest snapshot, ${what}`, 'cpu ms', 'all of it', '', threadSeconds * 1000)
      add(`manifest snapshot, ${what}, longest wait`, 'ms', 'of others', '<= 20', longestMs)
    }
    const changeMs = await measureChanges(manager, place, count)
    const how = `${CHANGED_LAYERS} layers come and go: manifest edit, map, objects released`
    add(`change, ${what}`, 'cpu ms', how, '', changeMs)
    await manager.abandon()
  }
}

/** Median processor time of a change that replaces layers, in milliseconds. */
async function measureChanges(
  manager: TenantManager,
  { tenantId, timelineId }: Place,
  count: number,
): Promise<number> {
  const timeline = manager.tenant(tenantId).timeline(timelineId)
  const origin = newTimelineId()
  const taken = (serial: number, change: number) =>
    entriesOf(CHANGED_LAYERS, serial).map(({ id, ...entry }) => ({
      ...entry,
      id: { ...id, generation: 1000 + change },
      origin,
      ceilingLsn: id.endLsn,
    }))
  // Spread over the columns; they come as if from an ancestor, so that they need no files.
  const serialOf = (change: number) => Math.floor((change * count) / CHANGES)
  const times: number[] = []
  let remove: Layer[] = []
  for (let change = 0; change < CHANGES; change++) {
    const adopt = taken(serialOf(change), change)
    const { threadSeconds } = await timed(() => timeline.change({ adopt, remove }))
    times.push(threadSeconds * 1000)
    remove = adopt.flatMap((entry) => timeline.layers.find(entry) ?? [])
  }
  return median(times) as number
}

async function measureBranches(
  manager: TenantManager,
  { tenantId, timelineId }: Place,
  count: number,
  report: Report,
): Promise<void> {
  const ancestorLsn = manager.tenant(tenantId).timeline(timelineId).lastRecordLsn
  const times: number[] = []
  for (let branch = 0; branch < BRANCHES; branch++) {
    const { seconds } = await timed(() =>
      manager.branchTimeline(tenantId, newTimelineId(), {
        ancestorTimelineId: timelineId,
        ancestorLsn,
      }),
    )
    times.push(seconds * 1000)
  }
  const gigabytes = ((count * LAYER_BYTES) / 1e9).toFixed(1)
  report.add(
    {
      name: `branch in the page server, ${count.toLocaleString('en-US')} layer(s)`,
      unit: 'ms',
      better: 'less',
      how: `a manifest of ${gigabytes} GB, as the page server does it for the control plane`,
      goal: '<= 20',
    },
    'zenith',
    median(times) as number,
  )
}
