/** HTTP API of the supervisor on loopback: `/status`, `/stop`, health and metrics. */
import { Gauge } from '@prometheus-io/client'
import { ComputeStatus, computeRoutes } from '#libs/api/compute.ts'
import { createHttp, type HttpServer } from '#libs/http/server.ts'
import type { Logger } from '#libs/log.ts'
import { parseLsn } from '#libs/lsn.ts'
import { createMetrics } from '#libs/metrics.ts'
import type { Supervisor } from './supervisor.ts'

/** Builds the application; `HttpDoor` has its port. */
export async function createApp(supervisor: Supervisor, log: Logger): Promise<HttpServer> {
  const metrics = createMetrics('compute')
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name: `zenith_compute_${name}`,
      help,
      registers: [metrics],
      collect() {
        this.set(read())
      },
    })
  const bytes = (lsn: string | null) => (lsn === null ? 0 : parseLsn(lsn))
  gauge('commit_lsn_bytes', 'End of the WAL that a quorum has', () =>
    bytes(supervisor.status().commitLsn),
  )
  gauge('running', '1 while Postgres accepts connections', () =>
    supervisor.status().state === 'running' ? 1 : 0,
  )
  gauge('term', 'Term this compute was elected with', () => supervisor.status().term ?? 0)

  const notReady = () => {
    const { state } = supervisor.status()
    return state === 'running' ? null : state
  }
  const app = await createHttp({ service: 'compute', log, metrics, notReady })
  const { status, stop } = computeRoutes
  const schema = { response: { 200: ComputeStatus } }
  app.get(status.path, { schema }, async () => supervisor.status())
  app.post(stop.path, { schema }, async () => {
    supervisor.stop()
    return supervisor.status()
  })
  return app
}
