/** Runs pgbench and reads its report. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { findPostgres } from '#libs/postgres-install.ts'

const run = promisify(execFile)

export interface PgAddress {
  host: string
  port: number
  user: string
}

export interface PgbenchRun {
  script: 'tpcb' | 'select' | { file: string }
  clients: number
  seconds: number
  /** Where the latency of each transaction is logged, as pgbench's --log-prefix. */
  logPrefix?: string
}

export interface PgbenchResult {
  transactionsPerSecond: number
  latencyMs: number
  transactions: number
}

function connection(address: PgAddress): string[] {
  return ['-h', address.host, '-p', String(address.port), '-U', address.user]
}

/** Creates the pgbench tables at the given scale (100,000 accounts each); seconds taken. */
export async function initialise(address: PgAddress, scale: number): Promise<number> {
  const start = performance.now()
  await run(findPostgres().bin('pgbench'), [
    ...connection(address),
    ...['-i', '-q', '-s', String(scale), 'postgres'],
  ])
  return (performance.now() - start) / 1000
}

/** Runs a script, built in or of one's own, with prepared statements. Throws if any client failed. */
export async function pgbench(address: PgAddress, options: PgbenchRun): Promise<PgbenchResult> {
  const { script, logPrefix } = options
  const which = script === 'tpcb' ? [] : script === 'select' ? ['-S'] : ['-f', script.file]
  const logging = logPrefix === undefined ? [] : ['-l', '--log-prefix', logPrefix]
  const { stdout } = await run(findPostgres().bin('pgbench'), [
    ...connection(address),
    ...['-n', '-M', 'prepared', '-c', String(options.clients), '-j', '1'],
    ...['-T', String(options.seconds), ...which, ...logging, 'postgres'],
  ])
  return {
    transactionsPerSecond: figure(stdout, /tps = ([\d.]+)/),
    latencyMs: figure(stdout, /latency average = ([\d.]+) ms/),
    transactions: figure(stdout, /number of transactions actually processed: (\d+)/),
  }
}

function figure(report: string, pattern: RegExp): number {
  const match = pattern.exec(report)
  if (!match) throw new Error(`pgbench's report has no ${pattern.source}:\n${report}`)
  return Number(match[1])
}
