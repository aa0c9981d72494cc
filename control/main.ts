/** The control plane: `node control/main.ts --config control.toml`. */
import { useCredentials } from '#libs/auth/credentials.ts'
import { checkListenAddress } from '#libs/auth/listen-rule.ts'
import { configPath, loadConfig } from '#libs/config.ts'
import { DiscoveryHub } from '#libs/discovery/hub.ts'
import { createHttp } from '#libs/http/server.ts'
import { createMetrics } from '#libs/metrics.ts'
import { runProcess } from '#libs/service.ts'
import { Branches } from './branches.ts'
import { ControlConfig } from './config.ts'
import { addDiscoveryRoutes, guardDiscovery } from './discovery/http.ts'
import { EndpointSettings } from './endpoint-settings.ts'
import { Endpoints } from './endpoints.ts'
import { Exports } from './exports.ts'
import { History } from './history.ts'
import { HistoryKeeper } from './history-keeper.ts'
import { addRoutes } from './http.ts'
import { Imports } from './imports.ts'
import { countRecords } from './record-metrics.ts'
import { Lifecycle } from './lifecycle/lifecycle.ts'
import { TenantDeletion } from './lifecycle/tenant-deletion.ts'
import { Migrations } from './membership/migrations.ts'
import { ComputeMaps } from './moves/compute-maps.ts'
import { Moves } from './moves/moves.ts'
import { FormerShards } from './moves/former-shards.ts'
import { Autosplit } from './moves/autosplit.ts'
import { countSplits } from './moves/split-metrics.ts'
import { Splits } from './moves/splits.ts'
import { Spreads } from './moves/spreads.ts'
import { PageserverHealth } from './moves/pageserver-health.ts'
import { Pageservers } from './moves/pageservers.ts'
import { Registry } from './registry.ts'
import { runResumer } from './resumer.ts'
import { SizeLimits } from './size-limits.ts'
import { openStore } from './store/open-store.ts'
import { TimeSearch } from './time-search.ts'
import { Tenants } from './tenants.ts'
import { Timelines } from './timelines.ts'
import { TipFinder } from './tip.ts'
import { openTokens } from './tokens.ts'

const DEFAULT_FIRST_ENDPOINT_PORT = 55432
const DEFAULT_LOST_AFTER_S = 30
const DEFAULT_HOME_AFTER_S = 20
/** A shard of that size is copied within the time that a move gives its warm-up. */
const DEFAULT_SPLIT_BYTES = 64 * 1024 ** 3
const DEFAULT_SPLIT_CHECK_S = 20

runProcess('control', async (self) => {
  const config = loadConfig(ControlConfig, configPath())
  const { log } = self
  checkListenAddress('control plane', [config.listen_http_host], {
    auth: false,
    insecure: config.insecure === true,
  })
  const tokens = openTokens(config, log)
  self.onStop(() => tokens.close())
  useCredentials(tokens.credentials)
  const store = openStore(config.store, config.dataDir)
  self.onStop(() => store.close())

  const registry = new Registry(store)
  const timelines = new Timelines(registry, log)
  const tenants = new Tenants(registry, timelines, log)
  const tips = new TipFinder({ registry, tokens, log })
  const imports = new Imports({ registry, timelines, log })
  const branches = new Branches({ registry, timelines, tips, imports, log })
  const migrations = new Migrations({ registry, tokens, log })
  const moves = new Moves({ registry, log })
  const formerShards = new FormerShards({ registry, log })
  const computeMaps = new ComputeMaps({ registry, log })
  const lostAfterS = config.pageserver_lost_after ?? DEFAULT_LOST_AFTER_S
  const health = new PageserverHealth({
    registry,
    moves,
    log,
    lostAfterMs: lostAfterS === 0 ? null : lostAfterS * 1000,
    homeAfterMs: (config.pageserver_home_after ?? DEFAULT_HOME_AFTER_S) * 1000,
  })
  const pageservers = new Pageservers(registry, health)
  const spreads = new Spreads({ registry, moves, health, log })
  const splits = new Splits({ registry, spreads, log })
  const splitBytes = config.split_size_bytes ?? DEFAULT_SPLIT_BYTES
  const autosplit = new Autosplit({
    registry,
    splits,
    health,
    log,
    shardBytes: splitBytes === 0 ? null : splitBytes,
    pauseMs: (config.split_check_seconds ?? DEFAULT_SPLIT_CHECK_S) * 1000,
  })
  const host = config.listen_http_host
  const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  let port = config.listen_http_port
  const endpoints = new Endpoints({
    registry,
    tips,
    tokens,
    log,
    controlPlaneUrl: () => `http://${reachable}:${port}`,
    firstPort: config.first_endpoint_port ?? DEFAULT_FIRST_ENDPOINT_PORT,
  })

  const lifecycle = new Lifecycle({ registry, timelines, branches, endpoints, tips, log })

  const tenantDeletion = new TenantDeletion({ registry, timelines, endpoints, formerShards, log })

  const metrics = createMetrics('control')
  countRecords(metrics, registry)
  countSplits(metrics, { registry, autosplit })
  const app = await createHttp({ service: 'control', log, metrics })
  const settings = new EndpointSettings({ registry, endpoints, log })
  const times = new TimeSearch({ registry, tips, log })
  const keeper = new HistoryKeeper({
    registry,
    log,
    ...(config.lease_renewal_seconds === undefined
      ? {}
      : { roundMs: config.lease_renewal_seconds * 1000 }),
  })
  const history = new History({ registry, times, onSet: () => keeper.wake() })
  const sizeLimits = new SizeLimits({ registry, log })
  const exports = new Exports({ registry, tips, log })
  addRoutes(app, {
    history,
    sizeLimits,
    moves,
    splits,
    spreads,
    autosplit,
    pageservers,
    registry,
    tenants,
    branches,
    lifecycle,
    tenantDeletion,
    migrations,
    endpoints,
    settings,
    tokens,
    exports,
    imports,
  })
  if (tokens.verify !== null) guardDiscovery(app, tokens.verify, log)
  addDiscoveryRoutes(app, new DiscoveryHub())
  await app.listen({ host, port })
  self.onStop(() => app.close())
  port = (app.server.address() as { port: number }).port
  self.onStop(() => migrations.stop())
  keeper.start()
  self.onStop(() => keeper.stop())
  self.onStop(() => moves.stop())
  self.onStop(() => splits.stop())
  self.onStop(() => spreads.stop())
  self.onStop(() => health.stop())
  health.start()
  autosplit.start()
  self.onStop(() => autosplit.stop())
  self.onStop(() => tenantDeletion.stop())
  self.onStop(
    runResumer({
      tenants,
      branches,
      imports,
      lifecycle,
      tenantDeletion,
      timelines,
      migrations,
      moves,
      splits,
      spreads,
      formerShards,
      computeMaps,
      sizeLimits,
      log,
    }),
  )
  log.info({ host, port }, 'listening')
})
