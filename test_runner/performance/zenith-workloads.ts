/** What only Zenith does: branches, computes that start from nothing, pages by number. */
import { closeSync, fsyncSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { callControl } from '#libs/api/control-client.ts'
import type { Report } from './report.ts'
import type { ZenithServer } from './subject.ts'

const BRANCHES = 40
/** As a control plane is used: not one after the other without a breath. */
const BRANCH_PAUSE_MS = 20

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
    report.add(
      {
        name: `limit: new folder and file, synced, ${megabytes} MB`,
        unit: 'ms',
        better: 'less',
        how: 'what the disk takes for the least that lasts, between the branches',
      },
      'zenith',
      syncedFile(join(installation.dir, `limit-${megabytes}-${index}`)),
    )
    await new Promise((resolve) => setTimeout(resolve, BRANCH_PAUSE_MS))
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

/** Milliseconds that it takes to make a folder with a small file, durably but for the folder's name. */
function syncedFile(folder: string): number {
  const start = performance.now()
  mkdirSync(folder)
  for (const path of [join(folder, 'file'), folder]) {
    const file = openSync(path, path === folder ? 'r' : 'w')
    if (path !== folder) writeSync(file, Buffer.alloc(300))
    fsyncSync(file)
    closeSync(file)
  }
  return performance.now() - start
}
