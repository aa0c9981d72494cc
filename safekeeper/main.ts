/** The safekeeper process: `main.ts --config safekeeper.toml`; data lies beside the file. */
import '#libs/thread-pool.ts'
import { randomBytes } from 'node:crypto'
import { useCredentials } from '#libs/auth/credentials.ts'
import { configPath, loadConfig } from '#libs/config.ts'
import { openDiscovery } from '#libs/discovery/open-discovery.ts'
import { openObjectStore } from '#libs/object-store/open-store.ts'
import { runProcess } from '#libs/service.ts'
import { openAccess } from './access.ts'
import { SafekeeperConfig } from './config.ts'
import { createSafekeeperHttp } from './http.ts'
import { createSafekeeperMetrics } from './metrics.ts'
import { PeerAddresses } from './peers/peer-addresses.ts'
import { PeerExchange } from './peers/peer-exchange.ts'
import { createPeerMetrics } from './peers/peer-metrics.ts'
import { PeerTables } from './peers/peer-tables.ts'
import { watchOffload } from './offload/offload-metrics.ts'
import { OffloadService } from './offload/offload-service.ts'
import { Timelines } from './timelines.ts'
import { serveWal } from './wal-service.ts'

const DEFAULT_MIN_FREE_BYTES = 64 * 1024 * 1024

runProcess('safekeeper', async (service) => {
  const { log } = service
  const config = loadConfig(SafekeeperConfig, configPath())
  const access = openAccess(config, log)
  service.onStop(() => access.close())
  useCredentials(access.credentials)
  const metrics = createSafekeeperMetrics()
  const offload =
    config.object_store === undefined
      ? null
      : new OffloadService(
          await openObjectStore(config.object_store, config.dataDir),
          config.offload ?? {},
          { metrics, log },
        )
  service.onStop(() => offload?.close())
  const limits = {
    maxTimelineWalBytes: config.max_timeline_wal_bytes ?? null,
    maxWalBytes: config.max_wal_bytes ?? null,
    minFreeBytes: config.min_free_bytes ?? DEFAULT_MIN_FREE_BYTES,
  }
  const timelines = await Timelines.open(config.dataDir, {
    nodeId: config.id,
    log,
    metrics,
    offload,
    limits,
  })
  service.onStop(() => timelines.close())
  watchOffload(metrics.registry, () => timelines.list())

  const wal = await serveWal({
    host: config.listen_pg_host,
    port: config.listen_pg_port,
    log,
    timelines,
    metrics,
    access,
  })
  service.onStop(() => wal.close())

  const http = await createSafekeeperHttp({
    id: config.id,
    name: config.name,
    log,
    metrics,
    timelines,
    access,
  })
  await http.listen({ host: config.listen_http_host, port: config.listen_http_port })
  service.onStop(() => http.close())

  if (config.discovery !== undefined) {
    const tables = new PeerTables(config.id)
    if (offload) offload.peersOf = (timeline) => tables.of(timeline).fresh(performance.now())
    const token = () => access.credentials.token({ for: 'http', target: null })
    const discovery = openDiscovery(config.discovery, { log, token })
    service.onStop(() => discovery.close())
    const exchange = new PeerExchange({
      nodeId: config.id,
      proposerId: randomBytes(16).toString('hex'),
      host: config.listen_pg_host,
      pgPort: wal.port,
      httpPort: config.listen_http_port,
      hasObjectStore: config.object_store !== undefined,
      timelines,
      tables,
      addresses: new PeerAddresses(config.control_plane_url ?? null, log),
      discovery,
      metrics: createPeerMetrics(metrics.registry),
      log,
    })
    service.onStop(() => exchange.close())
  }
  log.info({ id: config.id, pgPort: wal.port, httpPort: config.listen_http_port }, 'serving')
})
