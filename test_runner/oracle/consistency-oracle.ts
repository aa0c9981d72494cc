/**
 * The second oracle, for a compute that ran with `wal_consistency_checking`: has the pageserver redo
 * every record of the timeline that carries an image of its block, and compare (docs/byte-oracle.md).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { callPageserver } from '#libs/api/pageserver.ts'
import { errorMessage } from '#libs/errors.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import type { Compute } from '../fixtures/compute.ts'
import type { Installation } from '../fixtures/installation.ts'
import { PageClient } from '../fixtures/page-client.ts'
import { firstDifference } from './bytes.ts'
import { type ConsistencyPlan, type PlannedRead, planConsistencyReads } from './consistency-plan.ts'
import { FORK_KINDS } from './folder-diff.ts'
import { linkSegments, walFolder } from './wal-folder.ts'

/** For the compute. Images are compressed, or the WAL gets several times as long. */
export const CONSISTENCY_SETTINGS = { wal_consistency_checking: 'all', wal_compression: 'lz4' }

const AT_ONCE = 128
const PAGE_HEADER_SIZE = 24
const CHECKED = /^zenith_pageserver_redo_checked\S* (\d+)/m

export interface ConsistencyReport {
  plan: ConsistencyPlan
  /** Comparisons that redo has made since the pageserver started; a page may be redone more than once. */
  checked: number
  /** Images of visibility map pages, compared here. */
  mapImages: number
  faults: string[]
  seconds: number
}

/**
 * The compute may run or have ended. A fault is a page that cannot be read or differs, and redo that
 * has compared less than the WAL has to offer.
 */
export async function consistencyOracle(
  zenith: Installation,
  compute: Compute,
): Promise<ConsistencyReport> {
  const startMs = performance.now()
  const { tenantId, timelineId } = compute.spec
  const { pgPort: port, httpPort } = zenith.pageserverNode
  const url = `http://127.0.0.1:${httpPort}`
  const params = { tenantId, timelineId }
  const timeline = await callPageserver(url, 'getTimeline', { params })
  const dir = mkdtempSync(join(tmpdir(), 'zenith-consistency-'))
  try {
    linkSegments(walFolder(join(zenith.dir, 'safekeepers'), timelineId), join(dir, 'wal'))
    const endLsn = parseLsn(timeline.lastRecordLsn)
    const plan = planConsistencyReads(join(dir, 'wal'), parseLsn(timeline.startLsn), endLsn)
    await using pages = await PageClient.connect({ port, tenantId, timelineId })
    const faults = await checkReads(pages, plan.reads)
    const metrics = await (await fetch(`${url}/metrics`)).text()
    return {
      plan,
      checked: Number(CHECKED.exec(metrics)?.[1] ?? 0),
      mapImages: plan.reads.filter(({ image }) => image !== null).length,
      faults,
      seconds: (performance.now() - startMs) / 1000,
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** Reads all of them; one line for each page that cannot be read or is not what its image says. */
export async function checkReads(
  pages: PageClient,
  reads: readonly PlannedRead[],
): Promise<string[]> {
  const faults: string[] = []
  const queue = reads.values()
  const worker = async (): Promise<void> => {
    for (const read of queue) {
      const fault = await checkRead(pages, read)
      if (fault !== null) faults.push(fault)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  return faults
}

/** What is wrong with one page, or null. */
async function checkRead(pages: PageClient, read: PlannedRead): Promise<string | null> {
  const { spc, db, rel, fork, block, lsn, image } = read
  const name = `${spc}/${db}/${rel} ${FORK_KINDS[fork]} block ${block} at ${formatLsn(lsn)}`
  try {
    const page = await pages.pages({ spc, db, rel, fork }, block, 1, lsn)
    if (image === null) return null
    const at = firstDifference(page, image, PAGE_HEADER_SIZE)
    return at < 0 ? null : `${name} differs from the image in its record from byte ${at} on`
  } catch (error) {
    return `${name}: ${errorMessage(error)}`
  }
}

export function describeConsistency(report: ConsistencyReport): string {
  const { plan, checked, mapImages, faults, seconds } = report
  const { images, records, reads } = plan
  return [
    `consistency oracle: ${images + mapImages} images of ${records} records, ${faults.length} differing ` +
      `(${mapImages} of visibility maps; ${checked} comparisons by redo; ${reads.length} pages read; ` +
      `${seconds.toFixed(1)} s)`,
    ...faults.slice(0, 20).map((fault) => `  ${fault}`),
  ].join('\n')
}
