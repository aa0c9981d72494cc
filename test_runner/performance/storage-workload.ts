/** `npm run bench -- --only storage`: the storage engine, and the limits of the machine beside it. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Report, ReportRow } from './report.ts'
import { startZenith, type ZenithServer } from './subject.ts'
import { measureBranches, settle } from './zenith-workloads.ts'

const run = promisify(execFile)
const PART = fileURLToPath(new URL('./storage-part.ts', import.meta.url))
/** First the limits, so that nothing of the others is under way. */
const PARTS = ['limits', 'engine', 'attach', 'memory', 'churn']
const LIBUV_THREADS = '16'
/** Of a table of the filler, with its headers. */
const ROW_BYTES = 136

export interface StorageOptions {
  scale: number
  seconds: number
  copyMegabytes: number
  quick: boolean
  /** Parts run before all else on the machine. */
  realtime: boolean
}

export async function measureStorage(
  options: StorageOptions,
  report: Report,
  say: (text: string) => void,
): Promise<void> {
  const { scale, seconds, quick } = options
  const sizes = { scale, seconds, layers: quick ? 10_000 : 100_000, records: quick ? 1e5 : 6e5 }
  for (const part of PARTS) {
    say(part)
    const node = [process.execPath, '--expose-gc', PART, part, JSON.stringify(sizes)]
    const [command = '', ...args] = options.realtime ? ['chrt', '-r', '10', ...node] : node
    const { stdout } = await run(command, args, {
      maxBuffer: 16 << 20,
      env: { ...process.env, UV_THREADPOOL_SIZE: LIBUV_THREADS },
    })
    const last = stdout.trimEnd().split('\n').at(-1) as string
    report.addAll(JSON.parse(last) as ReportRow[])
  }
  await measureBranchSizes(options, report, say)
}

/** Branches of a new installation, of it just after a load, and when that has been taken in. */
export async function measureBranchSizes(
  options: { copyMegabytes: number; realtime: boolean },
  report: Report,
  say: (text: string) => void,
): Promise<void> {
  say(`branches of a new installation, then of ${options.copyMegabytes} MB more`)
  await using server = await startZenith(1)
  if (options.realtime) await givePrecedence(server)
  await settle(server)
  await measureBranches(server, report)
  await fill(server, options.copyMegabytes)
  await measureBranches(server, report, true)
  say('waiting until it has been taken in')
  await settle(server)
  await measureBranches(server, report)
}

/** Services and this process run before all else; the compute does not. */
async function givePrecedence({ installation }: ZenithServer): Promise<void> {
  const { control, pageservers, safekeepers } = installation
  const pids = [control, ...pageservers, ...safekeepers].map(({ pid }) => pid)
  for (const pid of [...pids, process.pid]) await run('chrt', ['-a', '-r', '-p', '10', `${pid}`])
}

async function fill(server: ZenithServer, megabytes: number): Promise<void> {
  const rows = Math.round((megabytes * 1e6) / ROW_BYTES)
  await server.query(
    `CREATE TABLE filler AS SELECT g AS id, repeat(md5(g::text), 3) AS text FROM generate_series(1, ${rows}) g`,
  )
}
