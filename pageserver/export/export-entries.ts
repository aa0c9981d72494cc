/**
 * A whole data folder as of an LSN, as stock Postgres 17 keeps it after a clean stop: every file of
 * every relation, transaction status, prepared transactions, maps, and one WAL segment that begins
 * with a shutdown checkpoint. What only a compute can use stays out: replication slots and the
 * files of logical decoding.
 */
import type { Logger } from '#libs/log.ts'
import type { Lsn } from '#libs/lsn.ts'
import { computeSettingsConf } from '#libs/pg/compute-settings.ts'
import { serializeControlFile } from '#libs/pg/control-file.ts'
import { setPageChecksums } from '#libs/pg/page-checksum.ts'
import {
  type BackupEntry,
  file,
  initForkEntries,
  originEntries,
  segmentEntries,
  settingsOf,
  slruEntries,
  twoPhaseEntries,
} from '../basebackup/base-backup.ts'
import { DIRECTORIES, PG_HBA_CONF, PG_MAJOR_VERSION } from '../basebackup/data-folder.ts'
import { databaseEntries } from '../basebackup/database-entries.ts'
import {
  type PageSource,
  permanentForks,
  relationEntries,
  TimelinePages,
} from '../basebackup/relation-files.ts'
import { stoppedAt, storedControl } from '../basebackup/start-point.ts'
import { statisticsEntries } from '../basebackup/statistics-entries.ts'
import { checkpointAt } from '../ingest/checkpoint-state.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { DATA_CHECKSUM_VERSION, makeExportCheckpoint } from './export-start.ts'

export interface ExportOptions {
  /** Data checksums in the exported cluster; null: as the cluster was made. */
  checksums: boolean | null
  /** Where the pages of relations come from; by default from the timeline. */
  pages?: PageSource | null
  log: Logger
  /** Clock for the checkpoint's time stamp, in milliseconds. */
  now?: () => number
}

/**
 * Yields the entries in archive order; pg_control is the last, so that a folder from an archive that
 * was cut short cannot start. The caller has checked that `lsn` is a record boundary that has been
 * taken in. Memory is bounded by the number of relations and by one read of pages.
 */
export async function* exportEntries(
  timeline: Timeline,
  lsn: Lsn,
  options: ExportOptions,
): AsyncGenerator<BackupEntry> {
  const nowSeconds = Math.floor((options.now ?? Date.now)() / 1000)
  const [initial, state] = await Promise.all([
    storedControl(timeline, lsn),
    checkpointAt(timeline, lsn),
  ])
  const checksums = options.checksums ?? initial.dataChecksumVersion !== 0
  const finish = checksums ? setPageChecksums : () => {}
  const { systemId } = initial
  const made = makeExportCheckpoint(state, { lsn, systemId, nowSeconds })
  const relations = await timeline.scanBlobs(KeyClass.RelSize, lsn)

  for (const name of DIRECTORIES) yield { name, type: 'directory' }
  yield file('PG_VERSION', `${PG_MAJOR_VERSION}\n`)
  yield file('pg_hba.conf', PG_HBA_CONF)
  yield file('pg_ident.conf', '')
  yield file('postgresql.auto.conf', '')
  yield file('postgresql.conf', computeSettingsConf(settingsOf(state)))
  yield* await databaseEntries(timeline, lsn, relations, true)
  yield* await slruEntries(timeline, lsn, state.checkpoint, options.log)
  yield* await twoPhaseEntries(timeline, lsn)
  yield* await originEntries(timeline, lsn)
  yield* await statisticsEntries(timeline, lsn, options.log)
  yield* await initForkEntries(timeline, lsn, relations, finish)
  const pages = options.pages ?? new TimelinePages(timeline, lsn)
  yield* relationEntries(permanentForks(relations), pages, finish)
  yield* segmentEntries(made.parts)
  const control = stoppedAt(initial, state, {
    recordLsn: made.recordLsn,
    checkpoint: made.checkpoint,
    nowSeconds,
  })
  control.dataChecksumVersion = checksums ? DATA_CHECKSUM_VERSION : 0
  yield { name: 'global/pg_control', type: 'file', content: serializeControlFile(control) }
}
