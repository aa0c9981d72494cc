/**
 * pgbench for minutes in place of hours, with real processes and real redo: all sizes that shape
 * layers are 1/64 of the usual ones, so what happens to layers in an hour of a database 64 times as
 * large, at the same rate of WAL, happens in 56 seconds. Buffers of the compute are small, so its
 * reads go to the page server.
 */
import { callPageserver } from '#libs/api/pageserver.ts'
import { requestText } from '#libs/http/client.ts'
import { parseLsn } from '#libs/lsn.ts'
import { Installation } from '../fixtures/installation.ts'
import { initialise, pgbench } from './pgbench.ts'
import type { Report } from './report.ts'

const SHARE = 64
const MIB = 1024 * 1024
const STORAGE = {
  roll_size_bytes: (128 * MIB) / SHARE,
  roll_distance_bytes: (256 * MIB) / SHARE,
  layer_bytes: (128 * MIB) / SHARE,
  image_delta_bytes: (32 * MIB) / SHARE,
  idle_bytes: (16 * MIB) / SHARE,
}
const SETTINGS = { shared_buffers: '8MB', autovacuum: 'off' }
const CLIENTS = 4

export async function measurePgbenchChurn(
  sizes: { scale: number; seconds: number },
  report: Report,
): Promise<void> {
  const { scale, seconds } = sizes
  await using zenith = await Installation.create({
    safekeepers: 1,
    pageserver: { storage: STORAGE },
  })
  const { tenantId, pageserverUrl } = zenith
  const compute = await zenith.startCompute('main', { settings: SETTINGS })
  await initialise(compute.address(), scale)
  const { timelineId } = compute.spec
  const lsnNow = async () =>
    parseLsn(String(await compute.value('SELECT pg_current_wal_flush_lsn()')))
  const beforeLsn = await lsnNow()
  const before = await visitedBuckets(pageserverUrl)
  await pgbench(compute.address(), { script: 'tpcb', clients: CLIENTS, seconds })
  const visited = (await visitedBuckets(pageserverUrl)).map(
    (count, le) => count - (before[le] ?? 0),
  )
  const wal = (await lsnNow()) - beforeLsn
  const size = await callPageserver(pageserverUrl, 'getTimelineSizes', {
    params: { tenantId, timelineId },
  })
  const stands = ((wal * SHARE) / 1e9).toFixed(1)
  const how = `pgbench TPC-B at scale ${scale} for ${seconds} s, ${(wal / 1e6).toFixed(0)} MB of WAL, layers of 1/${SHARE}: as ${stands} GB of WAL for a database of ${((scale * SHARE * 15) / 1000).toFixed(1)} GB in ${Math.round((seconds * SHARE) / 60)} minutes`
  const add = (name: string, unit: string, goal: string, figure: number) =>
    report.add({ name, unit, better: 'less', how, goal }, 'zenith', figure)
  for (const share of [0.5, 0.99, 0.999]) {
    const name = `layers visited per read, pgbench, p${share * 100}`
    add(name, 'layers', share === 0.99 ? '< 8' : '', shareOf(visited, share))
  }
  add('all history and images, by data', 'ratio', '', size.ownBytes / Number(size.logicalBytes))
}

/** Reads by the layers that they visited, as far as the metric tells them apart: at most 64. */
async function visitedBuckets(url: string): Promise<number[]> {
  const { text } = await requestText('GET', `${url}/metrics`)
  const counts: number[] = []
  const bucket = /^zenith_pageserver_read_layers_visited_bucket\{.*le="(\d+)".*\} (\d+)$/gm
  const found = text.matchAll(bucket)
  for (const [, le, count] of found) counts[Number(le)] = Number(count)
  return counts
}

/** The least bound that the share of the reads does not pass. */
function shareOf(buckets: readonly number[], share: number): number {
  const total = buckets.at(-1) ?? 0
  return buckets.findIndex((count) => count !== undefined && count >= share * total)
}
