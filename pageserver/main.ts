/** The pageserver: `node pageserver/main.ts --config pageserver.toml`. */
import '#libs/thread-pool.ts'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'
import { ownCredentials, useCredentials } from '#libs/auth/credentials.ts'
import { checkListenAddress } from '#libs/auth/listen-rule.ts'
import { nodeCredentials } from '#libs/auth/node-credentials.ts'
import { configPath, loadConfig } from '#libs/config.ts'
import { openDiscovery } from '#libs/discovery/open-discovery.ts'
import { errorMessage } from '#libs/errors.ts'
import { createHttp } from '#libs/http/server.ts'
import { createMetrics } from '#libs/metrics.ts'
import { openObjectStore } from '#libs/object-store/open-store.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { runProcess } from '#libs/service.ts'
import { watchCompaction } from './compaction/metrics.ts'
import { ThreadRunner } from './compaction/runner.ts'
import { PageserverConfig } from './config.ts'
import { GarbageCollector } from './gc/garbage-collector.ts'
import { createGcMetrics } from './gc/gc-metrics.ts'
import { addRoutes } from './http.ts'
import { ImportJobs } from './import/import-jobs.ts'
import { applyNativeOp } from './ingest/native-op.ts'
import { Locations } from './locations.ts'
import { createPageServiceMetrics } from './page-service/metrics.ts'
import { servePages } from './page-service/page-service.ts'
import { reAttach } from './re-attach.ts'
import { Readiness } from './readiness.ts'
import { watchReads } from './read-metrics.ts'
import { RedoPool } from './redo/redo-pool.ts'
import { createRedoMetrics } from './redo-metrics.ts'
import { clearScratch } from './scratch.ts'
import { diskSettings, storageLimits } from './remote/disk-settings.ts'
import { watchRemote } from './remote/metrics.ts'
import { openRemoteStorage } from './remote/remote-storage.ts'
import { TenantManager } from './tenants/tenant-manager.ts'
import { FlushThread } from './threads/flush-thread.ts'
import { limitsOf } from './timeline/storage-settings.ts'
import { TimelineService } from './timeline-service.ts'

const MAX_REDO_PROCESSES = 4
/** Of the compaction thread, beside those of reads. */
const COMPACTION_REDO_PROCESSES = 1
const DEFAULT_GC_PERIOD_SECONDS = 3600
const DEFAULT_LEASE_SECONDS = 600

runProcess('pageserver', async (self) => {
  const config = loadConfig(PageserverConfig, configPath())
  const { log } = self
  const { dataDir } = config
  checkListenAddress('pageserver', [config.listen_pg_host, config.listen_http_host], {
    auth: false,
    insecure: config.insecure === true,
  })
  useCredentials(
    nodeCredentials({
      kind: 'pageserver',
      id: config.id,
      controlPlaneUrl: config.control_plane_url,
      secretFile: config.auth === undefined ? null : resolve(dataDir, config.auth.node_secret),
      caFile: config.safekeeper_ca === undefined ? null : resolve(dataDir, config.safekeeper_ca),
      log,
    }),
  )
  const postgres = findPostgres(config.postgres_prefix)
  const metrics = createMetrics('pageserver')

  const redoMetrics = createRedoMetrics(metrics)
  const redo = new RedoPool({
    postgresPrefix: postgres.prefix,
    workDir: join(dataDir, 'redo'),
    log,
    maxProcesses: config.redo_processes ?? Math.min(availableParallelism(), MAX_REDO_PROCESSES),
    onApplied: redoMetrics.observe,
  })
  redoMetrics.watch(() => redo.stats)
  self.onStop(() => redo.close())

  const store = await openObjectStore(config.object_store, dataDir)
  const remote = openRemoteStorage({
    dataDir,
    store,
    controlPlaneUrl: config.control_plane_url,
    pageserverId: config.id,
    log,
  })
  self.onStop(() => remote.close())
  const runner = new ThreadRunner(
    {
      postgresPrefix: postgres.prefix,
      redoDir: join(dataDir, 'redo-compaction'),
      redoProcesses: COMPACTION_REDO_PROCESSES,
    },
    store,
  )
  const flushes = new FlushThread()
  self.onStop(() => flushes.close())
  const tenants = new TenantManager({
    compaction: runner,
    deltaFiles: flushes,
    dataDir,
    objectStore: store,
    deletions: remote.deletions,
    generations: remote.generations,
    accesses: remote.accesses,
    disk: diskSettings(config.disk),
    redo,
    applyNativeOp,
    log,
    limits: {
      ...limitsOf(config.storage ?? {}),
      ...storageLimits(config.disk),
      ...(config.lease_seconds === undefined ? {} : { leaseMs: config.lease_seconds * 1000 }),
    },
  })
  self.onStop(() => tenants.shutdown())
  watchRemote(metrics, () => ({
    ...tenants.remoteStats,
    deletions: remote.deletions.stats,
  }))
  watchCompaction(metrics, tenants.compactor)
  watchReads(metrics, tenants.readStats, tenants.residency)
  const token = () => ownCredentials().token({ for: 'http', target: null })
  const discovery = config.discovery ? openDiscovery(config.discovery, { log, token }) : null
  self.onStop(() => discovery?.close())
  const service = new TimelineService({
    tenants,
    postgres,
    templateFolder: join(dataDir, 'templates'),
    scratchFolder: join(dataDir, 'scratch'),
    log,
    metrics,
    discovery,
  })
  self.onStop(() => service.stopReceivers())
  const collector = new GarbageCollector({
    tenants: () => tenants.tenants(),
    periodMs: (config.gc_period_seconds ?? DEFAULT_GC_PERIOD_SECONDS) * 1000,
    restMs: (config.lease_seconds ?? DEFAULT_LEASE_SECONDS) * 1000,
    confirm: ({ tenantId, generation }) => remote.generations.validate(tenantId, generation),
    log,
    metrics: createGcMetrics(metrics),
  })
  self.onStop(() => collector.stop())
  const imports = new ImportJobs({
    tenants,
    folder: join(dataDir, 'imports'),
    pgVersion: async () => (await service.prepareTemplate()).pgVersion,
    log,
  })
  self.onStop(() => imports.close())
  const locations = new Locations({ service, folder: dataDir, store, log })
  self.onStop(() => locations.stop())

  const readiness = new Readiness()
  const pages = await servePages({
    host: config.listen_pg_host,
    port: config.listen_pg_port,
    log,
    metrics: createPageServiceMetrics(metrics),
    findTimeline: (tenantId, timelineId) =>
      service.servedTimeline(tenantId, timelineId, readiness.reason),
    onUse: (tenantId, timelineId) => service.nudge({ tenantId, timelineId }),
  })
  self.onStop(() => pages.close())
  // Nobody else has our port, so nobody else is at work in our folder.
  clearScratch([join(dataDir, 'scratch'), join(dataDir, 'imports')])
  const app = await createHttp({
    service: 'pageserver',
    log,
    metrics,
    notReady: () => readiness.reason,
  })
  addRoutes(app, {
    id: config.id,
    service,
    locations,
    tenants,
    collector,
    imports,
    notReady: () => readiness.reason,
  })
  await app.listen({ host: config.listen_http_host, port: config.listen_http_port })
  self.onStop(() => app.close())

  service.prepareTemplate().catch((error: unknown) => {
    log.warn({ err: error }, `no initdb template yet: ${errorMessage(error)}`)
  })
  const stopping = new AbortController()
  self.onStop(() => stopping.abort())
  const answer = await reAttach({
    controlPlaneUrl: config.control_plane_url,
    pageserverId: config.id,
    log,
    signal: stopping.signal,
    onWaiting: (problem) => readiness.waiting(config.control_plane_url, problem),
  }).catch((error: unknown) => {
    if (stopping.signal.aborted) return null
    throw error
  })
  if (answer === null) return
  readiness.loading(answer.tenants.length)
  await locations.begin(answer)
  await service.attachAll(answer, () => readiness.loaded())
  remote.deletions.start()
  readiness.ready()
  const httpPort = (app.server.address() as { port: number }).port
  log.info({ pgPort: pages.port, httpPort, tenants: answer.tenants.length }, 'ready')
})
