/**
 * Runs one compute: executes what `lifecycle.ts` decides and feeds the results back to it. One
 * instance lives as long as its process.
 */
import type { ComputePageservers, ComputeStatus } from '#libs/api/compute.ts'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type { EndpointReport, EndpointStatus } from '#libs/api/endpoint-info.ts'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { ownCredentials } from '#libs/auth/credentials.ts'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { ClusterSize, ShardPositions } from '#libs/protocol/shard-feedbacks.ts'
import { type ControlFile, parseControlFile } from '#libs/pg/control-file.ts'
import { existsSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { fetchBaseBackup } from './base-backup.ts'
import {
  dropSubscriptions,
  holdSubscriptions,
  releaseSubscriptions,
} from './inherited-subscriptions.ts'
import {
  type Effect,
  EXIT_CODE,
  INITIAL_STATE,
  type LifecycleEvent,
  type LifecycleState,
  next,
} from './lifecycle.ts'
import { fetchOldWal } from './old-wal.ts'
import type { PhaseClock } from './phase-clock.ts'
import { LiveSettings } from './live-settings.ts'
import { protectedSettings } from './postgres-config.ts'
import { type BackpressureFigures, PROGRESS_FILE_NAME, ProgressFile } from './progress-file.ts'
import { logTail, Postgres } from './postgres.ts'
import type { Role } from './role.ts'
import { keepAccessFiles, replacePrivateFile } from './safekeeper-access.ts'
import { oldestRestartLsn, restoreSlots } from './slot-files.ts'
import { noteSharedMemory, removeLeftSharedMemory } from './shared-memory.ts'
import { makeSocketFolder, removeSocketFolder } from './socket-folder.ts'
import type { ComputePlace } from './spec.ts'
import { SERVICE_FILE, safekeeperService, standbySettings } from './standby-config.ts'

/** A clean stop that takes longer is given up: nothing that was acknowledged depends on it. */
const STOP_PATIENCE_MS = 20_000
const SUPERUSER = 'zenith_admin'

export interface SupervisorOptions {
  spec: ComputeSpec
  place: ComputePlace
  role: Role
  log: Logger
  clock: PhaseClock
  /** Sends a report; resolves when the control plane has it, or gave up. */
  report: (report: EndpointReport) => Promise<void>
}

export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #log: Logger
  /** Who keeps the branch, as far as it was told. */
  #safekeepers: readonly NodeInfo[]
  #state: LifecycleState = INITIAL_STATE
  #elected: { term: number | null; startLsn: Lsn | null } | null = null
  #startLsn: Lsn | null = null
  #control: ControlFile | null = null
  #dataFolder: string | null = null
  #oldData: string | null = null
  #socketFolder: string | null = null
  #postgres: Postgres | null = null
  #progress: ProgressFile | null = null
  #pageserver: ShardPositions | null = null
  #clusterSize: ClusterSize | null = null
  #streamsAlready = false
  #reloadWhenReady = false
  #endAccessFiles: () => void = () => {}
  #stopTimer: NodeJS.Timeout | undefined
  #reported: Promise<void> = Promise.resolve()
  #resolveEnded: (exitCode: number) => void = () => {}
  /** The exit code, once there is nothing left to do. */
  readonly ended: Promise<number> = new Promise((resolve) => {
    this.#resolveEnded = resolve
  })
  httpPort: number | null = null
  readonly settings: LiveSettings

  constructor(options: SupervisorOptions) {
    this.#options = options
    this.#safekeepers = options.spec.safekeepers
    this.#log = options.log
    const { spec, log } = options
    this.settings = new LiveSettings({ spec, log, superuser: SUPERUSER })
  }

  /** Begins the election; everything else follows from it. */
  start(): void {
    this.report()
    this.#options.role.onFenced((reason) =>
      this.#handle({
        kind: 'fenced',
        reason: reason ?? 'another compute has taken over the branch',
      }),
    )
    this.#options.role.onPaused?.(() => this.#checkLimits())
    this.#run(async () => {
      this.#elected = await this.#options.role.elect()
      this.#startLsn = this.#elected.startLsn
      return { kind: 'elected' }
    })
  }

  /** Asks for a clean stop; `ended` says when it is done. */
  stop(): void {
    this.#handle({ kind: 'stop-asked' })
  }

  /**
   * Other safekeepers keep the branch. A replica's WAL receiver turns to them when the one that it
   * has goes away; a primary learns of them from the safekeepers themselves.
   */
  setSafekeepers(safekeepers: readonly NodeInfo[]): void {
    this.#safekeepers = safekeepers
    if (this.#options.spec.mode !== 'replica' || this.#dataFolder === null) return
    replacePrivateFile(join(this.#dataFolder, SERVICE_FILE), safekeeperService(safekeepers))
  }

  /**
   * The tenant has moved to other pageservers, or was split into more shards. Postgres is told by a signal and not in a session, as
   * a new session reads catalogs, and the pageserver that it would ask may be the one that is gone.
   * Throws `unavailable` while Postgres has only just been launched.
   */
  setPageservers(map: ComputePageservers): void {
    this.settings.setPageservers(map)
    if (this.#reload()) return
    throw new ZenithError('unavailable', 'Postgres has only just been launched')
  }

  /** All databases of the branch together may have so many bytes; null = any number. */
  setSizeLimit(bytes: number | null): void {
    this.settings.setSizeLimit(bytes)
    this.#reloadWhenReady = !this.#reload()
  }

  /** Makes Postgres, if there is one, read its settings; false when it must not be signalled yet. */
  #reload(): boolean {
    const pid = this.#postgres?.pid ?? null
    if (pid === null || this.#dataFolder === null) return true
    // Before it has its lock file, the signal would end it.
    if (!existsSync(join(this.#dataFolder, 'postmaster.pid'))) return false
    process.kill(pid, 'SIGHUP')
    return true
  }

  status(): ComputeStatus {
    const { spec, role, clock } = this.#options
    const lsnText = (lsn: Lsn | null) => (lsn === null ? null : formatLsn(lsn))
    return {
      tenantId: spec.tenantId,
      timelineId: spec.timelineId,
      endpoint: spec.endpoint,
      mode: spec.mode,
      attempt: spec.attempt,
      state: this.#endpointStatus(),
      phase: this.#state.phase,
      commitLsn: this.#elected === null ? null : lsnText(role.commitLsn),
      startLsn: lsnText(this.#startLsn),
      term: this.#elected === null ? null : (role.term ?? this.#elected.term),
      lagBytes: role.lagBytes,
      sizeLimitBytes: spec.sizeLimitBytes ?? null,
      map: {
        pageservers: spec.shards?.pageservers ?? [spec.pageserver],
        stripeBlocks: spec.shards?.stripeBlocks ?? null,
      },
      postgresPid: this.#postgres?.pid ?? null,
      host: spec.host,
      port: spec.port,
      error: this.#state.reason,
      phasesMs: clock.phasesMs(),
    }
  }

  /** How far the page server is with this compute's WAL; null before it has told, and for readers. */
  get pageserver(): ShardPositions | null {
    return this.#pageserver
  }

  /** Bytes of all relations, as the page server told last; null before, and for readers. */
  get clusterBytes(): number | null {
    return this.#clusterSize?.bytes ?? null
  }

  /** What writers slept so that the page server can follow; null while there are none. */
  backpressure(): BackpressureFigures | null {
    return this.#progress?.figures() ?? null
  }

  /** Tells the control plane where this compute stands. */
  report(): void {
    const { spec, report } = this.#options
    const { commitLsn, error } = this.status()
    this.#reported = report({
      attempt: spec.attempt,
      status: this.#endpointStatus(),
      pid: process.pid,
      ...(this.httpPort === null ? {} : { httpPort: this.httpPort }),
      ...(commitLsn === null ? {} : { lsn: commitLsn }),
      ...(error === null ? {} : { error }),
    })
  }

  #endpointStatus(): EndpointStatus {
    const { phase, outcome } = this.#state
    if (phase === 'ended') return outcome ?? 'crashed'
    if (phase === 'running') return 'running'
    if (phase === 'stopping' || phase === 'committing' || phase === 'killing') return 'stopping'
    return 'starting'
  }

  #handle(event: LifecycleEvent): void {
    const before = this.#state.phase
    const { state, effects } = next(this.#state, event)
    this.#state = state
    if (state.phase !== before) {
      this.#options.clock.enter(state.phase)
      const { outcome, reason } = state
      const phasesMs = this.#options.clock.phasesMs()
      this.#log.info({ event: event.kind, outcome, reason, from: before, phasesMs }, state.phase)
    }
    for (const effect of effects) this.#execute(effect)
  }

  /** Runs an asynchronous effect whose result is the next event. */
  #run(effect: () => Promise<LifecycleEvent | null>): void {
    effect().then(
      (event) => {
        if (event !== null) this.#handle(event)
      },
      (error: unknown) => {
        const reason = errorMessage(error)
        const fenced = error instanceof ZenithError && error.code === 'fenced'
        if (!fenced) this.#log.error({ err: error }, `${this.#state.phase} failed`)
        this.#handle({ kind: fenced ? 'fenced' : 'failed', reason })
      },
    )
  }

  #execute(effect: Effect): void {
    switch (effect) {
      case 'fetch-base-backup':
        return this.#run(() => this.#fetch())
      case 'start-postgres':
        return this.#run(() => this.#startPostgres())
      case 'stream':
        return this.#streamsAlready ? undefined : this.#stream()
      case 'stop-postgres':
        return this.#stopPostgres()
      case 'kill-postgres':
        return this.#run(async () => {
          await this.#postgres?.kill()
          return null
        })
      case 'finish-proposer':
        return this.#run(async () => {
          await this.#finish()
          return { kind: 'committed' }
        })
      case 'report':
        return this.report()
      case 'exit':
        return this.#exit()
    }
  }

  async #fetch(): Promise<LifecycleEvent> {
    const { spec, place } = this.#options
    assert(this.#elected !== null, 'a base backup needs an election before it')
    const { startLsn: lsn, term } = this.#elected
    removeLeftSharedMemory(place.folder)
    const backup = await fetchBaseBackup({ spec, lsn, dataFolder: place.dataFolder })
    this.#control = controlOf(backup.dataFolder)
    const startLsn = lsn ?? this.#control.checkpoint.redo
    this.#startLsn = startLsn
    this.#dataFolder = backup.dataFolder
    this.#oldData = backup.oldData
    this.#socketFolder ??= makeSocketFolder(place.folder, spec.attempt)
    this.settings.install(backup.dataFolder, this.#socketFolder)
    const { fileCount, byteCount } = backup
    this.#log.info({ lsn: formatLsn(startLsn), term, fileCount, byteCount }, 'base backup fetched')
    if (spec.dropSubscriptions === true) {
      holdSubscriptions(backup.dataFolder)
      this.settings.close()
    }
    // Computes without a term only read: slots are not for them.
    if (term !== null) {
      // It may have risen since the election: safekeepers serve old WAL to the term in force only.
      const present = this.#options.role.term ?? term
      await this.#restoreReplication(backup.dataFolder, startLsn, present)
    }
    return { kind: 'fetched' }
  }

  /** Replication slots go on where they were, for which they need the WAL since then. */
  async #restoreReplication(dataFolder: string, startLsn: Lsn, term: number): Promise<void> {
    const { spec } = this.#options
    const slots = restoreSlots(dataFolder)
    const fromLsn = oldestRestartLsn(slots)
    if (fromLsn === null || fromLsn >= startLsn) return
    await fetchOldWal({
      dataFolder,
      fromLsn,
      startLsn,
      term,
      safekeepers: spec.safekeepers,
      target: {
        tenantId: parseTenantId(spec.tenantId),
        timelineId: parseTimelineId(spec.timelineId),
      },
      log: this.#log,
    })
  }

  async #startPostgres(): Promise<LifecycleEvent | null> {
    const { spec, place } = this.#options
    const startLsn = this.#startLsn
    assert(
      this.#dataFolder !== null && this.#control !== null && startLsn !== null,
      'Postgres needs a data folder',
    )
    if (spec.mode === 'replica') {
      await this.#keepAccessFiles(this.#dataFolder)
      this.setSafekeepers(this.#safekeepers)
    }
    if (spec.mode === 'primary') this.#shareProgress(this.#dataFolder)
    const postgres = Postgres.start({
      prefix: spec.postgresPrefix,
      dataFolder: this.#dataFolder,
      settings: {
        ...protectedSettings({
          spec,
          startLsn,
          socketFolder: this.#socketFolder,
          supervisorAddress: this.httpPort === null ? null : `${spec.host}:${this.httpPort}`,
        }),
        ...(spec.mode === 'primary' ? {} : standbySettings(spec, this.#control, this.#dataFolder)),
      },
      self: { host: this.#socketFolder ?? spec.host, user: SUPERUSER },
      ...(spec.mode === 'replica' ? { serviceFile: join(this.#dataFolder, SERVICE_FILE) } : {}),
      logFile: place.postgresLog,
    })
    this.#postgres = postgres
    void postgres.ended.then(({ clean, reason }) => {
      const tail = clean ? '' : `\n${logTail(place.postgresLog)}`
      this.#handle({ kind: 'postgres-ended', clean, reason: `${reason}${tail}` })
    })
    if (!(await postgres.ready())) return null
    if (this.#reloadWhenReady) this.#reload()
    noteSharedMemory(this.#options.place.folder, this.#dataFolder)
    if (spec.dropSubscriptions === true) await this.#dropSubscriptions(this.#dataFolder)
    return { kind: 'ready' }
  }

  async #keepAccessFiles(dataFolder: string): Promise<void> {
    this.#endAccessFiles()
    const { spec, log } = this.#options
    this.#endAccessFiles = await keepAccessFiles(spec, ownCredentials(), dataFolder, log)
  }

  #shareProgress(dataFolder: string): void {
    const progress = new ProgressFile(join(dataFolder, PROGRESS_FILE_NAME))
    this.#progress = progress
    this.#options.role.onPageserver?.((positions, size) => {
      this.#pageserver = positions
      this.#clusterSize = size
      progress.tell(positions, size)
    })
  }

  /** Once per branch, so the control plane has to know before anybody can make new ones. */
  async #dropSubscriptions(dataFolder: string): Promise<void> {
    const { spec, log } = this.#options
    // Nothing commits without it.
    this.#stream()
    this.#streamsAlready = true
    const options = '-c session_preload_libraries= -c synchronous_commit=on'
    await dropSubscriptions((database) => this.settings.connect(database, options), log)
    const { callControl } = await import('#libs/api/control-client.ts')
    await callControl(spec.controlPlaneUrl, 'reportEndpoint', {
      params: { tenantId: spec.tenantId, name: spec.endpoint },
      body: { attempt: spec.attempt, status: 'starting', subscriptionsDropped: true },
    })
    releaseSubscriptions(dataFolder)
    await this.settings.open()
  }

  #stream(): void {
    const { spec, role } = this.#options
    const startLsn = this.#startLsn
    assert(startLsn !== null, 'streaming needs an election before it')
    role.stream({
      host: this.#socketFolder ?? spec.host,
      port: spec.port,
      user: SUPERUSER,
      startLsn,
    })
    this.#deleteOldData()
  }

  #deleteOldData(): void {
    if (this.#oldData === null) return
    rm(this.#oldData, { recursive: true, force: true }).catch((error: unknown) =>
      this.#log.warn(
        { err: error },
        'the old data folder could not be deleted; the next start will',
      ),
    )
  }

  /**
   * A replica's Postgres stops replaying when its primary has been given larger limits, and has
   * noted them by then: it needs to be started again with as much.
   */
  #checkLimits(): void {
    if (this.#dataFolder === null || this.#control === null) return
    const { spec } = this.#options
    const needed = standbySettings(spec, controlOf(this.#dataFolder), this.#dataFolder)
    if (isDeepStrictEqual(needed, standbySettings(spec, this.#control, this.#dataFolder))) return
    this.#log.warn({ needed }, 'the primary has larger limits now')
    this.#handle({ kind: 'outgrown' })
  }

  #stopPostgres(): void {
    this.#stopTimer = setTimeout(() => this.#handle({ kind: 'stop-overdue' }), STOP_PATIENCE_MS)
    this.#postgres?.stop()
  }

  /** After a clean end of Postgres: the quorum has all its WAL, then its statistics are kept. */
  async #finish(): Promise<void> {
    const { spec, role, log } = this.#options
    await role.stop()
    const dataFolder = this.#dataFolder
    assert(dataFolder !== null, 'a Postgres that ended had a data folder')
    // Those of a read-only compute tell of its own queries only, and it starts anew each time.
    if (spec.mode !== 'primary') return
    // Loaded when it is needed: an election need not wait for it.
    const { shipStatistics } = await import('./statistics.ts')
    await shipStatistics({ spec, dataFolder, lsn: role.commitLsn, log })
  }

  #exit(): void {
    clearTimeout(this.#stopTimer)
    this.#endAccessFiles()
    removeSocketFolder(this.#socketFolder)
    const { outcome } = this.#state
    assert(outcome !== null, 'an ended compute has an outcome')
    const exitCode = EXIT_CODE[outcome]
    void this.#reported.then(() => this.#resolveEnded(exitCode))
  }
}

function controlOf(dataFolder: string): ControlFile {
  return parseControlFile(readFileSync(join(dataFolder, 'global/pg_control')))
}
