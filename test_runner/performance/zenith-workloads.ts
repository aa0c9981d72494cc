/** What only Zenith does: branches, computes that start from nothing, pages by number. */
import { callControl } from '#libs/api/control-client.ts'
import type { Report } from './report.ts'
import type { ZenithServer } from './subject.ts'

const BRANCHES = 10

/** Branch creation while the parent is idle, and the start of a compute on a new branch. */
export async function measureBranches(server: ZenithServer, report: Report): Promise<void> {
  const { installation } = server
  const { controlUrl, tenantId } = installation
  const [size] = await server.query(
    'SELECT sum(pg_database_size(oid))::float8 AS bytes FROM pg_database',
  )
  const megabytes = Math.round(Number(size?.['bytes']) / 1e6)
  for (let index = 0; index < BRANCHES; index++) {
    const start = performance.now()
    await callControl(controlUrl, 'createBranch', {
      params: { tenantId },
      body: { name: `bench-${megabytes}-${index}` },
    })
    report.add(
      {
        name: `branch of ${megabytes} MB`,
        unit: 'ms',
        better: 'less',
        how: 'one call to the control plane, with the parent idle and running',
        goal: '<= 20 ms',
      },
      'zenith',
      performance.now() - start,
    )
  }
  for (let index = 0; index < 5; index++) {
    const start = performance.now()
    const compute = await installation.startCompute(`bench-${megabytes}-${index}`)
    report.add(
      {
        name: `compute start, ${megabytes} MB`,
        unit: 'ms',
        better: 'less',
        how: 'from the call to the control plane to the first answered query',
        goal: '<= 500 ms',
      },
      'zenith',
      performance.now() - start,
    )
    await compute.stop()
  }
}
