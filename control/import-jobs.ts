/**
 * The work of one import on pageservers: one job, or one for each shard of the tenant. Each shard
 * reads all of the source and keeps its own part. They must end at the same LSN, where safekeepers go
 * on:
 *
 *   all begin → each tells where it can end → what they agree on is recorded → all go on to there
 *
 * From files they end where all of them have WAL, of a server where the last of their base backups
 * is complete.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ImportJob, ImportPhase, ImportSource } from '#libs/api/transfer.ts'
import { assert, ZenithError } from '#libs/errors.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { onEach, type Place, shardAt } from './places.ts'
import { importApi } from './remote.ts'
import { slotOf } from './wal-sources.ts'

const POLL_MS = 300
const PHASES: readonly ImportPhase[] = [
  'waiting',
  'fetching',
  'checking',
  'copying',
  'replaying',
  'finishing',
]

export interface ImportJobsRun {
  places: readonly Place[]
  ids: { tenantId: string; timelineId: string }
  source: ImportSource
  /** What `slotOf` makes the slots' names of. */
  slot: string
  /** Where all shards end, if that was agreed on before. */
  endLsn: string | null
  /** Makes durable where all end, before the first is told. */
  agree(endLsn: string): Promise<void>
  onProgress(job: ImportJob): void
  /** Asked now and then; true when nobody wants the import any more. */
  isOver(): boolean
}

/** How it ended, or where it stands when nobody wants it any more. */
export type ImportOutcome = ImportJob | { state: 'failed'; error: ImportJob['error'] }

/**
 * Runs the jobs, or joins them. Returns when all are done, or one failed or was refused for what is
 * asked; throws when asking fails.
 */
export async function runImportJobs(run: ImportJobsRun): Promise<ImportOutcome> {
  try {
    return await runJobs(run)
  } catch (error) {
    if (!(error instanceof ZenithError) || error.code !== 'invalid_argument') throw error
    // It would be refused each time.
    const { code, message, hint = '' } = error
    return { state: 'failed', error: { code, message, hint } }
  }
}

async function runJobs(run: ImportJobsRun): Promise<ImportJob> {
  const { places, ids, source } = run
  let { endLsn } = run
  const begin = () =>
    onEach(places, (place) =>
      importApi.start(place, ids, {
        source,
        slot: slotOf(run.slot, shardAt(ids.tenantId, place)),
        ...(endLsn === null ? {} : { endLsn }),
      }),
    )
  for (let jobs = await begin(); ; ) {
    const job = mergeJobs(jobs, source)
    if (job.state !== 'running' || run.isOver()) return job
    run.onProgress(job)
    if (places.length > 1 && endLsn === null) {
      endLsn = agreedEnd(source, jobs)
      if (endLsn !== null) {
        await run.agree(endLsn)
        jobs = await begin()
        continue
      }
    }
    await sleep(POLL_MS)
    jobs = await onEach(places, (place) => importApi.get(place, ids))
  }
}

/** Where all shards can end; null as long as one of them does not know. */
export function agreedEnd(
  source: Pick<ImportSource, 'kind'>,
  jobs: readonly Pick<ImportJob, 'walEndLsn'>[],
): string | null {
  const ends: number[] = []
  for (const { walEndLsn } of jobs) {
    if (walEndLsn === null) return null
    ends.push(parseLsn(walEndLsn))
  }
  return formatLsn(source.kind === 'backup' ? Math.min(...ends) : Math.max(...ends))
}

/**
 * The jobs of all shards as one. It fails when one does, and when they are done and do not fit
 * together: then the pageservers have seen different backups.
 */
export function mergeJobs(jobs: readonly ImportJob[], source: ImportSource): ImportJob {
  const [first, ...others] = jobs
  assert(first !== undefined, 'an import has a job')
  if (others.length === 0) return first
  const phases = jobs.map(({ phase }) => PHASES.indexOf(phase))
  const phase = PHASES[Math.min(...phases)] as ImportPhase
  const inPhase = jobs.filter((job) => job.phase === phase)
  const total = inPhase.some(({ totalBytes }) => totalBytes === null)
    ? null
    : inPhase.reduce((sum, { totalBytes }) => sum + (totalBytes ?? 0), 0)
  const doneBytes = inPhase.reduce((sum, job) => sum + job.doneBytes, 0)
  const progress = { ...first, phase, doneBytes, totalBytes: total }
  const failed = jobs.findIndex(({ state }) => state === 'failed')
  if (failed !== -1) {
    const { error } = jobs[failed] as ImportJob
    const message = `shard ${failed}: ${error?.message ?? 'for an unknown reason'}`
    return {
      ...progress,
      state: 'failed',
      error: { code: 'internal', hint: '', ...error, message },
    }
  }
  if (jobs.some(({ state }) => state === 'running')) return { ...progress, state: 'running' }
  // Those that follow a server already may have gone on, each by itself.
  const follows = source.kind === 'postgres' && source.follow
  const facts = jobs.map((job) => `${job.startLsn} ${follows || job.endLsn} ${job.systemId}`)
  if (new Set(facts).size === 1) return { ...progress, state: 'done' }
  const error = new ZenithError('corrupt', 'the pageservers have taken in different backups', {
    hint: 'All pageservers must find the same backup and WAL at the path that is named.',
  })
  const { code, message, hint = '' } = error
  return { ...progress, state: 'failed', error: { code, message, hint } }
}
