/** The statistics files that the last compute left, if it ended cleanly where this one starts. */
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { unpackStatistics } from '#libs/pg/statistics-bundle.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { BackupEntry } from './base-backup.ts'

/**
 * `pg_stat/...`, or nothing: without them Postgres begins to count anew, as after a crash. A branch
 * made exactly where its parent had stopped gets the parent's, since its data are the same.
 */
export async function statisticsEntries(
  timeline: Timeline,
  lsn: Lsn,
  log: Logger,
): Promise<BackupEntry[]> {
  try {
    const bundle = await bundleAt(timeline, lsn)
    if (bundle === null) return []
    return unpackStatistics(bundle).map(({ path, content }) => ({
      name: path,
      type: 'file',
      content,
    }))
  } catch (error) {
    // A compute can do without.
    log.warn({ lsn: formatLsn(lsn), reason: errorMessage(error) }, 'statistics cannot be read')
    return []
  }
}

async function bundleAt(timeline: Timeline, lsn: Lsn): Promise<Buffer | null> {
  const own = await timeline.statistics.get(lsn)
  const { ancestor } = timeline
  return own === null && ancestor?.lsn === lsn ? await bundleAt(ancestor.timeline, lsn) : own
}
