/**
 * Imports under way on this pageserver, one per timeline. A job lives as long as the process: after a
 * restart the control plane begins it anew, and what the first one had made is gone.
 */
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { PostgresSource } from '#libs/api/control.ts'
import type { ImportJob, ImportSource } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn } from '#libs/lsn.ts'
import type { TenantManager } from '../tenants/tenant-manager.ts'
import type { DraftPlace } from '../tenants/tenant.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { checkBackup, openBackup } from './backup-folder.ts'
import { readBackupManifest } from './backup-manifest.ts'
import {
  beginWithFiles,
  type ImportPlan,
  type ImportRun,
  planFromFiles,
  planFromStream,
  replayFiles,
  replayStream,
} from './cluster-import.ts'
import { ImportProgress } from './import-progress.ts'
import { dropSlot, fetchPrimary } from './primary-backup.ts'

const SOURCE_ID = 1

export interface ImportIds {
  tenantId: TenantId
  timelineId: TimelineId
}

export interface ImportJobsOptions {
  tenants: TenantManager
  /** Below it each import unpacks what it must. */
  folder: string
  /** Version of the Postgres that will run on imported branches, as server_version_num. */
  pgVersion: () => Promise<number>
  log: Logger
}

interface Job {
  run: ImportRun
  abort: AbortController
  ended: Promise<void>
  timeline: Timeline | null
  error: unknown
}

/** What a pageserver is told to follow: a stock server and the slot there. */
export function followSource(
  server: Extract<ImportSource, { kind: 'postgres' }>['server'],
  slot: string,
): PostgresSource {
  return { kind: 'postgres', id: SOURCE_ID, slot, ...server }
}

export class ImportJobs {
  readonly #options: ImportJobsOptions
  readonly #jobs = new Map<TimelineId, Job>()

  constructor(options: ImportJobsOptions) {
    this.#options = options
  }

  /** Begins the import, or joins it. A timeline that is there already is a job that is done. */
  start(ids: ImportIds, source: ImportSource, slot: string): ImportJob {
    const running = this.#jobs.get(ids.timelineId)
    if (running !== undefined && running.error === null) return jobOf(running)
    const abort = new AbortController()
    const run: ImportRun = { progress: new ImportProgress(), signal: abort.signal }
    const job: Job = { run, abort, ended: Promise.resolve(), timeline: null, error: null }
    this.#jobs.set(ids.timelineId, job)
    job.ended = this.#perform(ids, source, slot, run).then(
      (timeline) => {
        job.timeline = timeline
      },
      (error: unknown) => {
        job.error = error
        const { log } = this.#options
        log.warn({ ...ids, reason: errorMessage(error) }, 'an import failed; nothing is left of it')
      },
    )
    return jobOf(job)
  }

  /** Throws `not_found` for one that this process has not begun. */
  get({ timelineId }: ImportIds): ImportJob {
    const job = this.#jobs.get(timelineId)
    if (job !== undefined) return jobOf(job)
    throw new ZenithError('not_found', `no import of timeline ${timelineId} is under way here`)
  }

  /** Returns when the job has ended and nothing is left of it. */
  async abort({ timelineId }: ImportIds): Promise<void> {
    const job = this.#jobs.get(timelineId)
    job?.abort.abort(new ZenithError('unavailable', 'the import was given up'))
    await job?.ended
    this.#jobs.delete(timelineId)
  }

  async close(): Promise<void> {
    const stopping = new ZenithError('unavailable', 'the pageserver is shutting down')
    for (const { abort } of this.#jobs.values()) abort.abort(stopping)
    await Promise.all([...this.#jobs.values()].map(({ ended }) => ended))
  }

  async #perform(
    ids: ImportIds,
    source: ImportSource,
    slot: string,
    run: ImportRun,
  ): Promise<Timeline> {
    const { tenants, folder, log } = this.#options
    const tenant = tenants.tenant(ids.tenantId)
    const there = tenant.timelines().find(({ timelineId }) => timelineId === ids.timelineId)
    if (there !== undefined) return there
    const staging = join(folder, ids.timelineId)
    const startedAt = performance.now()
    try {
      await rm(staging, { recursive: true, force: true })
      await mkdir(staging, { recursive: true, mode: 0o700 })
      const prepared =
        source.kind === 'backup'
          ? await this.#fromFiles(source, staging, run)
          : await this.#fromServer(ids, source, slot, staging, run)
      const { plan, replay } = prepared
      const facts = {
        startLsn: plan.startLsn,
        systemId: String(plan.backup.control.systemId),
        pgVersion: await this.#options.pgVersion(),
      }
      const fill = async (timeline: Timeline, place: DraftPlace) => {
        await beginWithFiles(timeline, place, plan, run)
        const consistentLsn = await replay(timeline)
        run.signal.throwIfAborted()
        run.progress.begin('finishing', null)
        if (tenants.tenant(ids.tenantId) !== tenant) {
          throw new ZenithError('unavailable', 'the tenant was attached anew meanwhile')
        }
        return consistentLsn
      }
      const timeline = await tenant.importTimeline(ids.timelineId, facts, fill)
      const elapsedMs = Math.round(performance.now() - startedAt)
      log.info({ ...ids, elapsedMs, lsn: formatLsn(timeline.lastRecordLsn) }, 'imported a cluster')
      return timeline
    } catch (error) {
      if (source.kind === 'postgres') await dropSlot(source.server, slot).catch(() => undefined)
      throw error
    } finally {
      await rm(staging, { recursive: true, force: true })
    }
  }

  async #fromFiles(
    source: Extract<ImportSource, { kind: 'backup' }>,
    staging: string,
    run: ImportRun,
  ) {
    const { path, wal = null } = source
    const backup = await openBackup({ path, wal, staging, ...run })
    const plan = await planFromFiles(backup, run)
    return { plan, replay: (timeline: Timeline) => replayFiles(timeline, plan, run) }
  }

  async #fromServer(
    ids: ImportIds,
    source: Extract<ImportSource, { kind: 'postgres' }>,
    slot: string,
    staging: string,
    run: ImportRun,
  ): Promise<{ plan: ImportPlan; replay: (timeline: Timeline) => Promise<number> }> {
    const { server } = source
    const folder = join(staging, 'data')
    await fetchPrimary(server, slot, folder, run.progress, run.signal)
    const manifestPath = join(folder, 'backup_manifest')
    const backup = await checkBackup(folder, manifestPath, [], run)
    const endLsn = (await readBackupManifest(manifestPath))?.endLsn ?? null
    if (endLsn === null) {
      throw new ZenithError('corrupt', 'the base backup does not say where it is complete')
    }
    const plan = planFromStream(backup)
    const target = { ...ids, source: followSource(server, slot), endLsn }
    const replay = async (timeline: Timeline) => {
      await replayStream(timeline, target, run)
      if (!source.follow) await dropSlot(server, slot)
      return endLsn
    }
    return { plan, replay }
  }
}

function jobOf({ run, timeline, error }: Job): ImportJob {
  const { phase, doneBytes, totalBytes } = run.progress
  const failed = error !== null
  return {
    state: failed ? 'failed' : timeline === null ? 'running' : 'done',
    phase,
    doneBytes,
    totalBytes,
    error: failed ? problemOf(error) : null,
    startLsn: timeline === null ? null : formatLsn(timeline.startLsn),
    endLsn: timeline === null ? null : formatLsn(timeline.lastRecordLsn),
    systemId: timeline?.systemId ?? null,
    pgVersion: timeline?.pgVersion ?? null,
  }
}

function problemOf(error: unknown) {
  const known = error instanceof ZenithError ? error : null
  return {
    code: known?.code ?? 'internal',
    message: errorMessage(error),
    hint: known?.hint ?? '',
  }
}
