/**
 * TPC-B under load, on main, on a branch made in the middle of it, and on a branch of that one, made
 * in the middle of its load. What must hold: the sums of balances agree with the history on all, and
 * every index agrees with its table (pg_amcheck).
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { eventually } from '../fixtures/eventually.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'

const LOAD_SECONDS = 6
/** On the last branch, while its parent takes load as well. */
const LAST_SECONDS = 3

async function sums(compute: Compute): Promise<string[]> {
  const [row] = await compute.query(`
    SELECT (SELECT sum(abalance) FROM pgbench_accounts)::text AS accounts,
           (SELECT sum(bbalance) FROM pgbench_branches)::text AS branches,
           (SELECT sum(tbalance) FROM pgbench_tellers)::text AS tellers,
           (SELECT coalesce(sum(delta), 0) FROM pgbench_history)::text AS history`)
  return Object.values(row as Record<string, string>)
}

async function rounds(compute: Compute): Promise<number> {
  return Number(await compute.value('SELECT count(*) FROM pgbench_history'))
}

async function checkConsistent(compute: Compute): Promise<void> {
  const [accounts, branches, tellers, history] = await sums(compute)
  expect([branches, tellers, history]).toEqual([accounts, accounts, accounts])
  await compute.query('CREATE EXTENSION IF NOT EXISTS amcheck')
  const { stdout } = await compute.tool('pg_amcheck', ['--heapallindexed', '-d', 'postgres'])
  expect(stdout).toBe('')
}

test('pgbench on main, on a branch made under load, and on a branch of that, made under its load', async () => {
  await using zenith = await Installation.create()
  const main = await zenith.startCompute('main', { settings: FILE_CACHE })
  await main.pgbench(['-i', '-q', '-s', '3'])
  expect(Number(await main.value('SELECT count(*) FROM pgbench_accounts'))).toBe(300_000)

  const load = main.pgbench(['-n', '-c', '8', '-j', '2', '-T', String(LOAD_SECONDS)])
  await sleep(LOAD_SECONDS * 500)
  await eventually(async () => (await rounds(main)) > 0, 'transactions on main')
  await zenith.createBranch('middle')
  const { stdout } = await load
  expect(stdout).toContain('number of failed transactions: 0')
  await checkConsistent(main)

  const branch = await zenith.startCompute('middle')
  await checkConsistent(branch)
  const ofMain = await rounds(main)
  const ofBranch = await rounds(branch)
  expect(ofBranch).toBeGreaterThan(0)
  expect(ofBranch).toBeLessThan(ofMain)

  const onBranch = branch.pgbench(['-n', '-c', '8', '-j', '2', '-T', String(LOAD_SECONDS)])
  await sleep((LOAD_SECONDS / 3) * 1000)
  await eventually(async () => (await rounds(branch)) > ofBranch, 'transactions on the branch')
  await zenith.createBranch('leaf', { from: 'middle' })
  const leaf = await zenith.startCompute('leaf')
  const atStart = await rounds(leaf)
  expect(atStart).toBeGreaterThan(ofBranch)
  const onLeaf = await leaf.pgbench(['-n', '-c', '8', '-j', '2', '-T', String(LAST_SECONDS)])
  for (const { stdout: report } of [await onBranch, onLeaf]) {
    expect(report).toContain('number of failed transactions: 0')
  }
  await checkConsistent(branch)
  await checkConsistent(leaf)
  expect(await rounds(main)).toBe(ofMain)
  expect(await rounds(leaf)).toBeGreaterThan(atStart)
})
