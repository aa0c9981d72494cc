/**
 * The way of a commit: latency at one client, and TPC-B at eight, with what each process spends on
 * a transaction. The same for stock Postgres with its fsync and for Zenith.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { initialise, pgbench } from './pgbench.ts'
import { ownChildrenSeconds, postgresSeconds, processorSeconds } from './processor-time.ts'
import type { Measure, Report } from './report.ts'
import type { Server } from './subject.ts'

/** One row of a small table: what is measured is the commit. */
const ONE_UPDATE =
  '\\set t random(1, 10)\nUPDATE pgbench_tellers SET tbalance = 1 WHERE tid = :t;\n'

export interface CommitOptions {
  scale: number
  seconds: number
  /** Processes besides Postgres, by what they are called in the report. */
  services: ReadonlyMap<string, readonly number[]>
  postmaster: number
  /** Numbers of safekeepers whose results this server's are to stand beside. */
  safekeepers: readonly number[]
}

/** Measures one server; its figures go under the name of each number of safekeepers given. */
export async function measureCommits(
  server: Server,
  options: CommitOptions,
  report: Report,
): Promise<void> {
  await initialise(server.address(), options.scale)
  await server.query('CHECKPOINT')
  const add = (measure: Measure, sample: number) => {
    for (const count of options.safekeepers) {
      const name = `${measure.name}, ${count} safekeeper${count === 1 ? '' : 's'}`
      report.add({ ...measure, name }, server.subject, sample)
    }
  }
  const latencies = await commitLatencies(server, options.seconds)
  const how = `UPDATE of one row, pgbench -M prepared -T ${options.seconds}, 1 client`
  const latency = { unit: 'ms', better: 'less', how } as const
  add({ ...latency, name: 'commit p50', goal: '>= 0.77 (1 safekeeper)' }, at(latencies, 0.5))
  add({ ...latency, name: 'commit p99' }, at(latencies, 0.99))

  await server.query('CHECKPOINT')
  const before = used(options)
  const run = await pgbench(server.address(), {
    script: 'tpcb',
    clients: 8,
    seconds: options.seconds,
  })
  const after = used(options)
  const tpcb = `pgbench -M prepared -T ${options.seconds}, scale ${options.scale}, 8 clients`
  const goal = '>= 1.0 (1 safekeeper), >= 0.7 (3)'
  const throughput = { unit: 'tps', better: 'more', how: tpcb, goal } as const
  add({ ...throughput, name: 'tpcb, 8 clients' }, run.transactionsPerSecond)
  let all = 0
  for (const [name, seconds] of after) {
    const perTransaction = ((seconds - (before.get(name) ?? 0)) / run.transactions) * 1e6
    if (name !== 'pgbench') all += perTransaction
    const cost = { unit: 'cpu µs', better: 'less', how: tpcb } as const
    add({ ...cost, name: `tpcb, ${name} per transaction` }, perTransaction)
  }
  const cost = { unit: 'cpu µs', better: 'less', how: tpcb } as const
  add({ ...cost, name: 'tpcb, all of the server per transaction' }, all)
}

/** Processor seconds so far, by what the processes are called. */
function used({ services, postmaster }: CommitOptions): Map<string, number> {
  const { backends, walsender, others } = postgresSeconds(postmaster)
  const seconds = new Map<string, number>([
    ['backends', backends],
    ['other processes of Postgres', others],
  ])
  if (services.size > 0) seconds.set('walsender', walsender)
  for (const [name, pids] of services) {
    seconds.set(
      name,
      pids.reduce((sum, pid) => sum + processorSeconds(pid), 0),
    )
  }
  return seconds.set('pgbench', ownChildrenSeconds())
}

/** Of each transaction, in milliseconds, rising. */
async function commitLatencies(server: Server, seconds: number): Promise<number[]> {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-latency-'))
  try {
    const script = join(dir, 'update.sql')
    writeFileSync(script, ONE_UPDATE)
    await pgbench(server.address(), {
      script: { file: script },
      clients: 1,
      seconds,
      logPrefix: join(dir, 'log'),
    })
    const latencies: number[] = []
    for (const name of readdirSync(dir)) {
      if (!name.startsWith('log')) continue
      for (const line of readFileSync(join(dir, name), 'utf8').split('\n')) {
        const microseconds = line.split(' ')[2]
        if (microseconds !== undefined) latencies.push(Number(microseconds) / 1000)
      }
    }
    return latencies.sort((a, b) => a - b)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

function at(sorted: readonly number[], share: number): number {
  return sorted[Math.floor((sorted.length - 1) * share)] as number
}
