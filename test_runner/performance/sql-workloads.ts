/** What is measured through SQL, on either server. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { findPostgres } from '#libs/postgres-install.ts'
import { initialise, pgbench } from './pgbench.ts'
import type { Measure, Report } from './report.ts'
import type { Server } from './subject.ts'

export interface Sizes {
  scale: number
  seconds: number
  copyBytes: number
  copyFile: string
}

const goal = {
  tpcb: '>= 1.0 (8 clients)',
  select: '>= 0.9',
  copy: '>= 0.8',
  scan: '>= 0.8',
}

/** pgbench TPC-B and select-only, at 1 and 8 clients, on a freshly initialised database. */
export async function measurePgbench(server: Server, sizes: Sizes, report: Report): Promise<void> {
  const seconds = await initialise(server.address(), sizes.scale)
  report.add(
    {
      name: `pgbench -i -s ${sizes.scale}`,
      unit: 's',
      better: 'less',
      how: 'wall time of pgbench -i -q',
    },
    server.subject,
    seconds,
  )
  for (const script of ['select', 'tpcb'] as const) {
    for (const clients of [1, 8]) {
      await server.query('CHECKPOINT')
      const result = await pgbench(server.address(), { script, clients, seconds: sizes.seconds })
      const name = `${script}, ${clients} client${clients === 1 ? '' : 's'}`
      const measure: Measure = {
        name,
        unit: 'tps',
        better: 'more',
        how: `pgbench -M prepared -T ${sizes.seconds}, scale ${sizes.scale}, after a checkpoint`,
        goal: goal[script],
      }
      report.add(measure, server.subject, result.transactionsPerSecond)
    }
  }
}

/** COPY of a prepared file from the client, then a sequential count(*) with everything cold. */
export async function measureBulk(server: Server, sizes: Sizes, report: Report): Promise<void> {
  const { subject } = server
  const megabytes = sizes.copyBytes / 1e6
  await server.query('CREATE TABLE bulk (id int, grp int, filler text)')
  const copyStart = performance.now()
  await copyFrom(server, sizes.copyFile)
  report.add(
    {
      name: `COPY of ${Math.round(megabytes)} MB`,
      unit: 'MB/s',
      better: 'more',
      how: 'COPY FROM STDIN by psql of a prepared file, megabytes of the file per second',
      goal: goal.copy,
    },
    subject,
    megabytes / ((performance.now() - copyStart) / 1000),
  )
  await server.query('VACUUM bulk')
  await server.restartCold()
  const [size] = await server.query("SELECT pg_relation_size('bulk')::float8 AS bytes")
  const scanStart = performance.now()
  await server.query('SET max_parallel_workers_per_gather = 0; SELECT count(*) FROM bulk')
  report.add(
    {
      name: 'cold count(*)',
      unit: 'MB/s',
      better: 'more',
      how: 'count(*) of the table just copied, after a restart and with the page cache dropped',
      goal: goal.scan,
    },
    subject,
    Number(size?.['bytes']) / 1e6 / ((performance.now() - scanStart) / 1000),
  )
}

async function copyFrom(server: Server, file: string): Promise<void> {
  const { host, port, user } = server.address()
  const psql = spawn(
    findPostgres().bin('psql'),
    ['-X', '-q', '-h', host, '-p', String(port), '-U', user, '-d', 'postgres'].concat([
      '-c',
      'COPY bulk FROM STDIN',
    ]),
    { stdio: ['pipe', 'ignore', 'inherit'] },
  )
  const ended = exitCode(psql)
  await pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), psql.stdin)
  const code = await ended
  if (code !== 0) throw new Error(`psql ended with ${code}`)
}

function exitCode(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.once('exit', resolve))
}
