/**
 * Brings the statistics that Postgres wrote while it shut down to the pageserver. The next compute
 * gets them with its base backup if it starts where this one ended.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type { PageserverRoutes } from '#libs/api/pageserver.ts'
import { pageserverPaths } from '#libs/api/pageserver-paths.ts'
import { errorMessage } from '#libs/errors.ts'
import { callRoute } from '#libs/http/route.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import {
  isStatisticsPath,
  MAX_BUNDLE_BYTES,
  packStatistics,
  type StatisticsFile,
} from '#libs/pg/statistics-bundle.ts'
import { firstShardId } from './base-backup.ts'

const TIMEOUT_MS = 5_000
const FOLDER = 'pg_stat'

/** Never throws: what is lost when this fails is lost in every crash too, and Postgres copes. */
export async function shipStatistics(options: {
  spec: ComputeSpec
  dataFolder: string
  /** End of all WAL of this compute. */
  lsn: Lsn
  log: Logger
}): Promise<void> {
  const { spec, lsn, log } = options
  try {
    const files = filesOf(options.dataFolder)
    const bundle = packStatistics(files)
    const sizes = Object.fromEntries(files.map(({ path, content }) => [path, content.length]))
    if (bundle.length > MAX_BUNDLE_BYTES) {
      log.warn({ sizes, bundleBytes: bundle.length }, 'statistics are too large to be kept')
      return
    }
    await callRoute<PageserverRoutes['putStatistics']>(
      pageserverPaths.putStatistics,
      `http://${spec.pageserver.host}:${spec.pageserver.httpPort}`,
      {
        params: { tenantId: firstShardId(spec), timelineId: spec.timelineId },
        body: { lsn: formatLsn(lsn), bundle: bundle.toString('base64') },
        timeoutMs: TIMEOUT_MS,
      },
    )
    log.info({ sizes, bundleBytes: bundle.length, lsn: formatLsn(lsn) }, 'statistics kept')
  } catch (error) {
    log.warn({ reason: errorMessage(error) }, 'statistics were not kept; they begin anew')
  }
}

function filesOf(dataFolder: string): StatisticsFile[] {
  const paths = readdirSync(join(dataFolder, FOLDER)).map((name) => `${FOLDER}/${name}`)
  return paths
    .filter(isStatisticsPath)
    .map((path) => ({ path, content: readFileSync(join(dataFolder, path)) }))
}
