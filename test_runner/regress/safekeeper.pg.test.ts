/**
 * The WAL service by itself: real safekeepers, our proposer, a stock Postgres and stock tools.
 */
import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { eventually } from '../fixtures/eventually.ts'
import { WalService } from '../fixtures/wal-service.ts'

const run = promisify(execFile)

async function currentLsn(service: WalService): Promise<number> {
  const [row] = await service.postgres.query('SELECT pg_current_wal_flush_lsn()::text AS lsn')
  return parseLsn(String(row?.['lsn']))
}

test('commits are durable on one safekeeper; pg_waldump and pg_receivewal read its WAL', async () => {
  await using service = await WalService.start({ safekeepers: 1 })
  const proposer = await service.startCompute()
  await service.postgres.query('CREATE TABLE t AS SELECT generate_series(1, 50000) AS a')
  await service.postgres.query('SELECT pg_switch_wal()')
  await service.postgres.query('INSERT INTO t VALUES (0)')
  const lsn = await currentLsn(service)
  await proposer.waitCommitted(lsn)

  // The segments as pg_waldump reads them, from the start of the timeline to the newest record.
  const dump = await run(
    findPostgres().bin('pg_waldump'),
    ['-p', service.walDir(0), '-s', formatLsn(service.startLsn), '-e', formatLsn(lsn), '--stats'],
    { maxBuffer: 1 << 26 },
  ).catch((error: { stderr: string }) => error)
  // The newest segment is partial, which pg_waldump does not open by itself: copy it under its name.
  const copy = mkdtempSync(join(tmpdir(), 'zenith-waldump-'))
  for (const name of readdirSync(service.walDir(0))) {
    if (!name.startsWith('0000')) continue
    const bytes = readFileSync(join(service.walDir(0), name))
    writeFileSync(join(copy, name.replace('.partial', '')), bytes)
  }
  const { stdout } = await run(
    findPostgres().bin('pg_waldump'),
    ['-p', copy, '-s', formatLsn(service.startLsn), '-e', formatLsn(lsn)],
    { maxBuffer: 1 << 28 },
  )
  expect(stdout.split('\n').length).toBeGreaterThan(1000)
  expect(stdout).toContain('SWITCH')
  expect(dump).toBeDefined()

  const received = mkdtempSync(join(tmpdir(), 'zenith-receivewal-'))
  const { host, pgPort } = service.members[0]!
  await run(
    findPostgres().bin('pg_receivewal'),
    [
      '-h',
      host,
      '-p',
      String(pgPort),
      '-U',
      'x',
      '-D',
      received,
      '-E',
      formatLsn(lsn - 8),
      '--no-loop',
    ],
    { env: { ...process.env, PGOPTIONS: service.pgOptions } },
  )
  for (const name of readdirSync(received)) {
    const mine = readFileSync(join(copy, name.replace('.partial', '')))
    const theirs = readFileSync(join(received, name))
    const end = name.endsWith('.partial') ? lsn % (16 << 20) : mine.length
    expect(theirs.subarray(0, end).equals(mine.subarray(0, end))).toBe(true)
  }
  rmSync(copy, { recursive: true })
  rmSync(received, { recursive: true })

  // A clean stop leaves the shutdown checkpoint committed.
  await service.postgres.stop()
  await proposer.stop()
  const { commitLsn, flushLsn } = await service.timeline(0)
  expect(commitLsn).toBe(flushLsn)
  expect(proposer.commitLsn).toBe(parseLsn(flushLsn))
})

test('kill -9 of the only safekeeper under load: acknowledged commits survive, none twice', async () => {
  await using service = await WalService.start({ safekeepers: 1 })
  await service.startCompute()
  await service.postgres.query('CREATE TABLE ledger (id int PRIMARY KEY)')
  const acknowledged: { id: number; lsn: number }[] = []
  let running = true
  const writer = (async () => {
    const client = await service.postgres.connect()
    for (let id = 0; running; id += 1) {
      const result = await client.query(
        `INSERT INTO ledger VALUES (${id}) RETURNING pg_current_wal_insert_lsn()::text AS lsn`,
      )
      acknowledged.push({ id, lsn: parseLsn(String(result.rows[0].lsn)) })
    }
    await client.end()
  })()
  for (let round = 0; round < 5; round += 1) {
    await sleep(150)
    await service.safekeepers[0]?.process.stop('SIGKILL')
    const last = acknowledged.at(-1)
    await service.safekeepers[0]?.process.start()
    const { flushLsn } = await service.timeline(0)
    expect(parseLsn(flushLsn)).toBeGreaterThan(last?.lsn ?? 0)
    const count = acknowledged.length
    await eventually(async () => acknowledged.length > count + 5, 'commits to go on')
  }
  running = false
  await writer
  const [row] = await service.postgres.query('SELECT count(*)::int AS n FROM ledger')
  expect(row?.['n']).toBe(acknowledged.length)
})

test('three safekeepers: one down, two down, back again; WAL is byte-identical after', async () => {
  await using service = await WalService.start({ safekeepers: 3 })
  const proposer = await service.startCompute()
  await service.postgres.query('CREATE TABLE t (a int, b text)')
  const fill = "INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g"
  await service.safekeepers[2]?.process.stop('SIGKILL')
  await service.postgres.query(fill)
  await service.safekeepers[1]?.process.stop('SIGKILL')
  let done = false
  const hanging = service.postgres.query(fill).then(() => {
    done = true
  })
  await sleep(700)
  expect(done).toBe(false)
  await service.safekeepers[2]?.process.start()
  await hanging
  await service.safekeepers[1]?.process.start()
  const lsn = await currentLsn(service)
  await eventually(async () => {
    const all = await Promise.all([0, 1, 2].map((index) => service.timeline(index)))
    return all.every((timeline) => parseLsn(timeline.commitLsn) >= lsn)
  }, 'all three to catch up')
  const digests = await Promise.all(
    [0, 1, 2].map((index) => service.digest(index, service.startLsn, lsn)),
  )
  expect(new Set(digests).size).toBe(1)
  await eventually(
    async () => proposer.status().safekeepers.every(({ state }) => state === 'active'),
    'all three to follow',
  )
})

test('a second proposer fences the first; the log is one', async () => {
  await using service = await WalService.start({ safekeepers: 2 })
  const first = await service.startCompute()
  let fenced: string | null = null
  first.onFenced((reason) => {
    fenced = reason
  })
  await service.postgres.query('CREATE TABLE t (a int)')
  const lsn = await currentLsn(service)
  const second = service.proposer('second')
  const { term, startLsn } = await second.elect()
  expect(term).toBe(2)
  expect(startLsn).toBeGreaterThanOrEqual(lsn)
  await eventually(async () => fenced !== null, 'the first to be fenced')
  await second.stop()
  const third = service.proposer('third')
  expect(await third.elect()).toEqual({ term: 3, startLsn })
  await third.stop()
  // A sync by itself leaves everything committed, for readers to see.
  for (const index of [0, 1]) {
    await eventually(async () => {
      const { commitLsn } = await service.timeline(index)
      return commitLsn === formatLsn(startLsn)
    }, 'the safekeepers to know the commit position')
  }
})

test('a damaged control file is refused by name, and other timelines still work', async () => {
  await using service = await WalService.start({ safekeepers: 1 })
  const proposer = service.proposer()
  await proposer.elect()
  await proposer.stop()
  const safekeeper = service.safekeepers[0]!
  await safekeeper.process.stop('SIGTERM')
  const file = join(service.walDir(0), 'safekeeper.control')
  const bytes = readFileSync(file)
  const broken = Buffer.from(bytes)
  broken[60] = (broken[60] as number) ^ 1
  writeFileSync(file, broken)
  await safekeeper.process.start()
  await expect(service.timeline(0)).rejects.toMatchObject({
    code: 'corrupt',
    message: expect.stringContaining('safekeeper.control'),
  })
  await safekeeper.process.stop('SIGTERM')
  writeFileSync(file, bytes)
  await safekeeper.process.start()
  expect((await service.timeline(0)).term).toBe(1)
})
