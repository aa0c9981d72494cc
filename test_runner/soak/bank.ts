/**
 * pgbench on one branch, for as long as the soak runs, and what must hold of its tables at any moment:
 * every transaction adds one amount to an account, a teller, a branch and the history, so all four
 * sums are equal in any snapshot, present or past.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { findPostgres } from '#libs/postgres-install.ts'
import type { Compute } from '../fixtures/compute.ts'

const CLIENTS = 2
/** Transactions per second of one branch: the point is time and churn, not load. */
const RATE = 60

export const SUMS = `SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts) AS accounts,
  (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers) AS tellers,
  (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches) AS branches,
  (SELECT coalesce(sum(delta), 0) FROM pgbench_history) AS history,
  (SELECT count(*) FROM pgbench_accounts) AS rows,
  (SELECT count(*) FROM pgbench_history) AS transactions`

export interface Sums {
  accounts: string
  tellers: string
  branches: string
  history: string
  rows: string
  transactions: string
}

/** Throws when the four sums differ or accounts are missing; returns what was seen. */
export async function checkSums(compute: Compute, expectedRows: number): Promise<Sums> {
  const [row] = await compute.query(SUMS)
  const sums = row as unknown as Sums
  const { accounts, tellers, branches, history, rows } = sums
  if (new Set([accounts, tellers, branches, history]).size !== 1 || Number(rows) !== expectedRows) {
    throw new Error(`${compute.spec.endpoint}: the sums are wrong: ${JSON.stringify(sums)}`)
  }
  return sums
}

export class Bank {
  readonly compute: Compute
  #child: ChildProcess | null = null
  #stopping = false
  #output = ''
  /** Set when pgbench ended by itself. */
  failure: string | null = null

  constructor(compute: Compute) {
    this.compute = compute
  }

  start(): void {
    const { host, port, user } = this.compute.address()
    const args = [
      ...['-h', host, '-p', String(port), '-U', user, '-n', '-M', 'prepared'],
      ...['-c', String(CLIENTS), '-j', '1', '-R', String(RATE), '-T', '100000', 'postgres'],
    ]
    const child = spawn(findPostgres().bin('pgbench'), args, { stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    const keep = (chunk: Buffer) => {
      this.#output = (this.#output + chunk.toString()).slice(-2000)
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    child.once('exit', (code) => {
      if (!this.#stopping) this.failure = `pgbench ended with ${code}: ${this.#output}`
    })
  }

  /** Ends pgbench; the server rolls back what was in flight. */
  async stop(): Promise<void> {
    const child = this.#child
    this.#stopping = true
    if (child === null || child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    child.kill('SIGTERM')
    await ended
  }
}
