/** What only Zenith does: branches, computes that start from nothing, pages by number. */
import { closeSync, fsyncSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { callControl } from '#libs/api/control-client.ts'
import { processorSeconds } from './processor-time.ts'
import type { Report } from './report.ts'
import type { ZenithServer } from './subject.ts'

const BRANCHES = 40
/** As a control plane is used: not one after the other without a breath. */
const BRANCH_PAUSE_MS = 20
/** Services that use less than this of a processor, for so long, have nothing left to do. */
const QUIET_SHARE = 0.1
const QUIET_SECONDS = 5

/**
 * Branch creation while the parent is idle, and the start of a compute on a new branch. With
 * `loading` the page server still works on what was loaded just before.
 */
export async function measureBranches(
  server: ZenithServer,
  report: Report,
  loading = false,
): Promise<void> {
  const { installation } = server
  const { controlUrl, tenantId } = installation
  const [size] = await server.query(
    'SELECT sum(pg_database_size(oid))::float8 AS bytes FROM pg_database',
  )
  const megabytes = Math.round(Number(size?.['bytes']) / 1e6)
  const what = loading ? `${megabytes} MB, just loaded` : `${megabytes} MB`
  const prefix = `bench-${megabytes}-${loading ? 'loading' : 'rest'}`
  for (let index = 0; index < BRANCHES; index++) {
    const start = performance.now()
    await callControl(controlUrl, 'createBranch', {
      params: { tenantId },
      body: { name: `${prefix}-${index}` },
    })
    report.add(
      {
        name: `branch of ${what}`,
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
        name: `limit: new folder and file, synced, ${what}`,
        unit: 'ms',
        better: 'less',
        how: 'what the disk takes for the least that lasts, between the branches',
      },
      'zenith',
      syncedFile(join(installation.dir, `limit-${prefix}-${index}`)),
    )
    await new Promise((resolve) => setTimeout(resolve, BRANCH_PAUSE_MS))
  }
  for (let index = 0; index < 5; index++) {
    const start = performance.now()
    const compute = await installation.startCompute(`${prefix}-${index}`)
    report.add(
      {
        name: `compute start, ${what}`,
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

/** Waits until the page server has made its layers and images of what was loaded. */
export async function settle(server: ZenithServer): Promise<void> {
  const { pageservers, safekeepers } = server.installation
  const used = () =>
    [...pageservers, ...safekeepers].reduce((sum, { pid }) => sum + processorSeconds(pid ?? 0), 0)
  for (let before = used(), quiet = 0; quiet < QUIET_SECONDS; ) {
    await new Promise((resolve) => setTimeout(resolve, 1000))
    const now = used()
    quiet = now - before < QUIET_SHARE ? quiet + 1 : 0
    before = now
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
