/**
 * Imports under way on this pageserver, one per timeline, or per shard of one. A job lives as long as
 * the process: after a restart the control plane begins it anew, and what the first one had made is
 * gone.
 *
 * Each shard reads all of the source and keeps its own part. All must end at the same LSN, so the
 * job of a shard tells where it can end, and waits there to be told where all of them do.
 */
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { PostgresSource } from '#libs/api/node-info.ts'
import type { ImportJob, ImportSource } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { shardNumberOf, wholeTenant } from '#libs/sharding.ts'
import type { TenantManager } from '../tenants/tenant-manager.ts'
import type { DraftPlace } from '../tenants/tenant.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { checkBackup, openBackup } from './backup-folder.ts'
import { readBackupManifest } from './backup-manifest.ts'
import {
  beginWithFiles,
  endingAt,
  type ImportPlan,
  type ImportRun,
  planFromFiles,
  planFromStream,
  replayFiles,
  replayStream,
} from './cluster-import.ts'
import { ImportProgress } from './import-progress.ts'
import { dropSlot, fetchPrimary } from './primary-backup.ts'

/** There is one source only. */
export const SOURCE_ID = 1

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
  end: SharedEnd | null
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
  /** By `keyOf`, as several shards of a tenant may be here. */
  readonly #jobs = new Map<string, Job>()

  constructor(options: ImportJobsOptions) {
    this.#options = options
  }

  /**
   * Begins the import, or joins it. A timeline that is there already is a job that is done. `endLsn`
   * is where all shards end.
   */
  start(ids: ImportIds, source: ImportSource, slot: string, endLsn: Lsn | null = null): ImportJob {
    const running = this.#jobs.get(keyOf(ids))
    if (running !== undefined && running.error === null) {
      if (endLsn !== null) running.end?.agree(endLsn)
      return jobOf(running)
    }
    const abort = new AbortController()
    const run: ImportRun = { progress: new ImportProgress(), signal: abort.signal }
    const end = shardNumberOf(ids.tenantId) === null ? null : new SharedEnd(endLsn, abort.signal)
    const job: Job = { run, end, abort, ended: Promise.resolve(), timeline: null, error: null }
    this.#jobs.set(keyOf(ids), job)
    job.ended = this.#perform(ids, source, slot, run, end).then(
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
  get(ids: ImportIds): ImportJob {
    const job = this.#jobs.get(keyOf(ids))
    if (job !== undefined) return jobOf(job)
    throw new ZenithError('not_found', `no import of timeline ${ids.timelineId} is under way here`)
  }

  /** Returns when the job has ended and nothing is left of it. */
  async abort(ids: ImportIds): Promise<void> {
    const job = this.#jobs.get(keyOf(ids))
    job?.abort.abort(new ZenithError('unavailable', 'the import was given up'))
    await job?.ended
    this.#jobs.delete(keyOf(ids))
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
    end: SharedEnd | null,
  ): Promise<Timeline> {
    const { tenants, folder, log } = this.#options
    const tenant = tenants.tenant(ids.tenantId)
    const there = tenant.timelines().find(({ timelineId }) => timelineId === ids.timelineId)
    if (there !== undefined) return there
    const shard = ids.tenantId.slice(wholeTenant(ids.tenantId).length)
    const staging = join(folder, `${ids.timelineId}${shard}`)
    const startedAt = performance.now()
    try {
      await rm(staging, { recursive: true, force: true })
      await mkdir(staging, { recursive: true, mode: 0o700 })
      const prepared =
        source.kind === 'backup'
          ? await this.#fromFiles(source, staging, run, end)
          : await this.#fromServer(ids, source, slot, staging, run, end)
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
    end: SharedEnd | null,
  ) {
    const { path, wal = null } = source
    const backup = await openBackup({ path, wal, staging, ...run })
    const found = await planFromFiles(backup, run)
    const endLsn = end && (await end.settle(found.extent?.endLsn ?? found.startLsn))
    const plan = endLsn === null ? found : endingAt(found, endLsn)
    return { plan, replay: (timeline: Timeline) => replayFiles(timeline, plan, run) }
  }

  async #fromServer(
    ids: ImportIds,
    source: Extract<ImportSource, { kind: 'postgres' }>,
    slot: string,
    staging: string,
    run: ImportRun,
    end: SharedEnd | null,
  ): Promise<{ plan: ImportPlan; replay: (timeline: Timeline) => Promise<number> }> {
    const { server } = source
    const folder = join(staging, 'data')
    await fetchPrimary(server, slot, folder, run.progress, run.signal)
    const manifestPath = join(folder, 'backup_manifest')
    const backup = await checkBackup(folder, manifestPath, [], run)
    const completeLsn = (await readBackupManifest(manifestPath))?.endLsn ?? null
    if (completeLsn === null) {
      throw new ZenithError('corrupt', 'the base backup does not say where it is complete')
    }
    const endLsn = end === null ? completeLsn : await end.settle(completeLsn)
    if (endLsn < completeLsn) throw tooLate(completeLsn, endLsn)
    const plan = planFromStream(backup)
    const exact = end !== null
    const target = { ...ids, source: followSource(server, slot), endLsn, exact }
    const replay = async (timeline: Timeline) => {
      await replayStream(timeline, target, run)
      if (!source.follow) await dropSlot(server, slot)
      return endLsn
    }
    return { plan, replay }
  }
}

/** Where the parts of all shards end. */
class SharedEnd {
  /** Where this one could; null while that is not known. */
  ownLsn: Lsn | null = null
  readonly #agreed = Promise.withResolvers<Lsn>()

  constructor(agreedLsn: Lsn | null, signal: AbortSignal) {
    if (agreedLsn !== null) this.agree(agreedLsn)
    signal.addEventListener('abort', () => this.#agreed.reject(signal.reason))
    // Nobody may be waiting.
    this.#agreed.promise.catch(() => undefined)
  }

  agree(lsn: Lsn): void {
    this.#agreed.resolve(lsn)
  }

  /** Tells where this shard could end, and waits until it is said where all of them do. */
  settle(ownLsn: Lsn): Promise<Lsn> {
    this.ownLsn = ownLsn
    return this.#agreed.promise
  }
}

function keyOf({ tenantId, timelineId }: ImportIds): string {
  return `${tenantId}/${timelineId}`
}

function tooLate(completeLsn: Lsn, endLsn: Lsn): ZenithError {
  return new ZenithError(
    'unavailable',
    `this base backup is complete at ${formatLsn(completeLsn)} only, and the other shards end at ${formatLsn(endLsn)}`,
    { hint: 'A pageserver was restarted in the middle of it. Begin the import anew.' },
  )
}

function jobOf({ run, end, timeline, error }: Job): ImportJob {
  const { phase, doneBytes, totalBytes } = run.progress
  const failed = error !== null
  return {
    state: failed ? 'failed' : timeline === null ? 'running' : 'done',
    phase,
    doneBytes,
    totalBytes,
    error: failed ? problemOf(error) : null,
    walEndLsn: end === null || end.ownLsn === null ? null : formatLsn(end.ownLsn),
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
