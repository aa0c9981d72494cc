/**
 * The storage engine on real WAL of pgbench, in one process: ingest, then merge of the L0 layers,
 * images with real redo, page reads over the page service, and what is left when history goes.
 */
import { createLogger } from '#libs/log.ts'
import { createMetrics } from '#libs/metrics.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../../pageserver/keyspace/key-class.ts'
import type { Layer } from '../../pageserver/layers/layer.ts'
import { LayerKind } from '../../pageserver/layers/layer-name.ts'
import { createPageServiceMetrics } from '../../pageserver/page-service/metrics.ts'
import { servePages } from '../../pageserver/page-service/page-service.ts'
import type { Timeline } from '../../pageserver/timeline/timeline.ts'
import { type IngestedTimeline, measureIngest } from './ingest-workload.ts'
import { PageLoad } from './page-load.ts'
import { median, type Report } from './report.ts'
import { timed } from './stopwatch.ts'

const MIB = 1024 * 1024
/** Little, so that random reads of the whole table find next to nothing in it. */
const CHUNK_CACHE_BYTES = 16 * MIB
/** Blocks that stay in that cache. */
const CACHED_BLOCKS = 1200
const ROLL_BYTES = 64 * MIB

export interface EngineSizes {
  scale: number
  seconds: number
}

export async function measureEngine(sizes: EngineSizes, report: Report): Promise<void> {
  const limits = {
    chunkCacheBytes: CHUNK_CACHE_BYTES,
    rollSizeBytes: ROLL_BYTES,
    // Compaction is measured alone.
    l0CompactCount: 1000,
    l0DelayCount: 1000,
    l0CompactMax: 100,
    imageDepth: 1e9,
    imageAfterDeltas: 1e9,
    imageDeltaBytes: 1e15,
  }
  await measureIngest({ ...sizes, limits }, report, async (ingested) => {
    const { timeline } = ingested
    await measureMerge(timeline, report)
    await measureImages(timeline, report)
    await measureIndexes(timeline, report)
    await measurePageService(ingested, report)
    await measureSize(ingested, report)
  })
}

function storedBytes(layers: readonly Layer[]): number {
  return layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
}

async function measureMerge(timeline: Timeline, report: Report): Promise<void> {
  const inputs = timeline.layers.l0
  let raw = 0
  for (const layer of inputs) {
    for (const bytes of (await layer.load()).columns.chunkRaw) raw += bytes
  }
  const used = await timed(async () => {
    while (await timeline.compaction.compactL0());
  })
  const how = `${inputs.length} L0 layers, ${Math.round(raw / 1e6)} MB expanded, ${Math.round(storedBytes(inputs) / 1e6)} MB stored, of the same WAL`
  const goal = '>= 200'
  const better = 'more'
  report.add(
    { name: 'L0 merge', unit: 'MB/s', better, how, goal },
    'zenith',
    raw / 1e6 / used.seconds,
  )
  report.add(
    { name: 'L0 merge, thread', unit: 'MB/cpu s', better, how, goal },
    'zenith',
    raw / 1e6 / used.threadSeconds,
  )
  report.add(
    { name: 'L0 merge, all threads', unit: 'MB/cpu s', better, how },
    'zenith',
    raw / 1e6 / used.processSeconds,
  )
}

async function measureImages(timeline: Timeline, report: Report): Promise<void> {
  const used = await timed(() => timeline.compaction.makeImages())
  let pages = 0
  for (const layer of timeline.layers.newestFirst) {
    if (layer.id.kind === LayerKind.Image) pages += (await layer.load()).counts.rows
  }
  const how = 'every page of the timeline, of records and by redo processes'
  report.add(
    { name: 'images', unit: 'pages/s', better: 'more', how },
    'zenith',
    pages / used.seconds,
  )
  report.add(
    {
      name: 'images, thread',
      unit: 'pages/cpu s',
      better: 'more',
      how: `${how}; redo not included`,
    },
    'zenith',
    pages / used.threadSeconds,
  )
}

/** Keys are counted once per layer: each layer has its own index. */
async function measureIndexes(timeline: Timeline, report: Report): Promise<void> {
  for (const [kind, what] of [
    [LayerKind.Image, 'image'],
    [LayerKind.Delta, 'delta'],
  ] as const) {
    let [bytes, keys] = [0, 0]
    for (const layer of timeline.layers.newestFirst) {
      if (layer.id.kind !== kind) continue
      const index = await layer.load()
      bytes += index.sizeBytes
      const { groupFirstRow, rowBlk } = index.columns
      for (let group = 0; group < index.counts.groups; group++) {
        let last = -1
        const end = groupFirstRow[group + 1] as number
        for (let row = groupFirstRow[group] as number; row < end; row++) {
          if (rowBlk[row] !== last) keys++
          last = rowBlk[row] as number
        }
      }
    }
    if (keys === 0) continue
    report.add(
      {
        name: `resident index per key, ${what} layers`,
        unit: 'bytes',
        better: 'less',
        how: `${keys} keys of pgbench's layers`,
        goal: '<= 20',
      },
      'zenith',
      bytes / keys,
    )
  }
}

async function measurePageService(
  { manager, timeline }: IngestedTimeline,
  report: Report,
): Promise<void> {
  const { tenantId, timelineId, lastRecordLsn } = timeline
  const relation = await largestRelation(timeline)
  const { spc, db, rel, fork, blocks } = relation
  const server = await servePages({
    host: '127.0.0.1',
    port: 0,
    log: createLogger('pages'),
    metrics: createPageServiceMetrics(createMetrics('bench')),
    findTimeline: (tenant, id) => manager.tenant(tenant).timeline(id),
  })
  const load = new PageLoad()
  const common = { port: server.port, command: `pagestream ${tenantId} ${timelineId}`, relation }
  const rate = async (what: string, blocks: number, perRequest: number, goal: string) => {
    const shape = { ...common, blocks, perRequest, depth: perRequest === 1 ? 64 : 16 }
    await load.run({ ...shape, pages: 4000 })
    const pages = perRequest === 1 ? 40_000 : 100_000
    const used = await timed(() => load.run({ ...shape, pages }))
    const how = `one connection, ${shape.depth} requests of ${perRequest} page(s) in flight, ${blocks} blocks`
    const name = `GetPage, ${what}, ${perRequest === 1 ? 'random' : `runs of ${perRequest}`}`
    const better = 'more'
    report.add({ name, unit: 'pages/s', better, how, goal }, 'zenith', pages / used.seconds)
    report.add(
      { name: `${name}, thread`, unit: 'pages/cpu s', better, how, goal },
      'zenith',
      pages / used.threadSeconds,
    )
  }
  try {
    const latencies = await load.run({
      ...common,
      ...{ blocks: CACHED_BLOCKS, perRequest: 1, depth: 1, pages: 4000 },
    })
    report.add(
      {
        name: 'GetPage, depth 1, p50',
        unit: 'ms',
        better: 'less',
        how: 'one page at a time from images whose chunks are cached',
        goal: '<= 0.12',
      },
      'zenith',
      median([...latencies.subarray(1000)]) as number,
    )
    await rate('cached images', CACHED_BLOCKS, 1, '>= 100,000')
    await rate('cached images', CACHED_BLOCKS, 16, '>= 100,000')
    await rate('compressed chunks', blocks, 1, '>= 25,000')
    await rate('compressed chunks', blocks, 16, '')
    const slot = timeline.slot(KeyClass.RelBlock, spc, db, rel, fork)
    for (let blk = 0; blk < CACHED_BLOCKS; blk++) {
      const page = await timeline.readPage(slot, blk, lastRecordLsn)
      timeline.put(slot, blk, lastRecordLsn + 8, ValueKind.Image, page, 0, PAGE_SIZE)
    }
    timeline.publish(lastRecordLsn + 8)
    await rate('open layer', CACHED_BLOCKS, 1, '>= 100,000')
    await rate('open layer', CACHED_BLOCKS, 16, '>= 100,000')
  } finally {
    await load.close()
    await server.close()
  }
}

async function largestRelation(timeline: Timeline) {
  const sizes = await timeline.scanBlobs(KeyClass.RelSize, timeline.lastRecordLsn)
  const all = sizes.map((entry) => ({ ...entry, blocks: entry.value.readUInt32LE(0) }))
  const [largest] = all.sort((a, b) => b.blocks - a.blocks)
  if (!largest) throw new Error('the timeline has no relation')
  const { spc, db, rel, fork, blocks } = largest
  return { spc, db, rel, fork, blocks }
}

/** With the cutoff at the end of the history. */
async function measureSize({ manager, timeline }: IngestedTimeline, report: Report): Promise<void> {
  await timeline.createImageLayers()
  await manager
    .tenant(timeline.tenantId)
    .collectGarbage(timeline.timelineId, { pitrIntervalMs: 0, pitrBytes: null })
  await timeline.compaction.compactBottom()
  await timeline.ready()
  const physical = storedBytes(timeline.layers.newestFirst)
  const logical = timeline.logicalBytes ?? 0
  report.add(
    {
      name: 'physical / logical after pgbench',
      unit: 'ratio',
      better: 'less',
      how: `${Math.round(physical / 1e6)} MB of layers for ${Math.round(logical / 1e6)} MB, cutoff at the end`,
      goal: '<= 2',
    },
    'zenith',
    physical / logical,
  )
}
