/** Three safekeepers: one may be down, two may not, and afterwards all three hold the same bytes. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { callSafekeeper, type SafekeeperTimeline } from '#libs/api/safekeeper.ts'
import { parseLsn, parseSegmentFileName, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { filesBelow, Installation } from '../fixtures/installation.ts'

async function timelines(zenith: Installation, timelineId: string): Promise<SafekeeperTimeline[]> {
  return Promise.all(
    zenith.safekeeperNodes.map((node) =>
      callSafekeeper(`http://${node.host}:${node.httpPort}`, 'getTimeline', {
        params: { tenantId: zenith.tenantId, timelineId },
      }),
    ),
  )
}

/** Hash of a safekeeper's WAL bytes from `startLsn` up to `endLsn`. */
function walDigest(folder: string, startLsn: number, endLsn: number): string {
  const hash = createHash('sha256')
  const segments = new Map<number, string>()
  for (const file of filesBelow(folder)) {
    const name = (file.split('/').at(-1) as string).replace(/\.partial$/, '')
    const parsed = parseSegmentFileName(name)
    if (parsed) segments.set(parsed.segment, join(folder, file))
  }
  for (let at = startLsn; at < endLsn; ) {
    const segment = Math.floor(at / WAL_SEGMENT_SIZE)
    const from = at % WAL_SEGMENT_SIZE
    const to = Math.min(WAL_SEGMENT_SIZE, from + endLsn - at)
    const file = segments.get(segment)
    if (file === undefined) throw new Error(`${folder} has no segment ${segment}`)
    hash.update(readFileSync(file).subarray(from, to))
    at += to - from
  }
  return hash.digest('hex')
}

test('one of three stopped: commits go on; two: they hang, and finish when one is back', async () => {
  await using zenith = await Installation.create({ safekeepers: 3 })
  const compute = await zenith.startCompute('main')
  const client = await compute.connect()
  await client.query('CREATE TABLE t (i int)')
  const insert = (i: number) => client.query('INSERT INTO t VALUES ($1)', [i])
  const [first, second, third] = zenith.safekeepers
  await insert(1)

  await third?.stop('SIGKILL')
  for (let i = 2; i <= 200; i++) await insert(i)

  await second?.stop('SIGKILL')
  let answered = false
  const hanging = insert(201).then(() => {
    answered = true
  })
  await sleep(3000)
  expect(answered).toBe(false)
  const other = await compute.connect()
  expect((await other.query('SELECT count(*)::int AS n FROM t')).rows).toEqual([{ n: 200 }])
  await other.end()

  await second?.start()
  await hanging
  for (let i = 202; i <= 300; i++) await insert(i)
  await third?.start()
  for (let i = 301; i <= 400; i++) await insert(i)
  await client.end()
  await compute.stop()

  const timelineId = compute.spec.timelineId
  const deadline = Date.now() + 30_000
  let states = await timelines(zenith, timelineId)
  while (new Set(states.map((state) => state.flushLsn)).size > 1 && Date.now() < deadline) {
    await sleep(200)
    states = await timelines(zenith, timelineId)
  }
  // A clean stop may leave one safekeeper behind; the next election brings it level.
  const again = await zenith.startCompute('main')
  expect(await again.value('SELECT count(*)::int FROM t')).toBe(400)
  await again.query('INSERT INTO t VALUES (401)')
  const settled = Date.now() + 30_000
  do {
    await sleep(200)
    states = await timelines(zenith, timelineId)
  } while (new Set(states.map((state) => state.commitLsn)).size > 1 && Date.now() < settled)

  const [state] = states
  if (state === undefined) throw new Error('no safekeeper answered')
  const start = parseLsn(state.startLsn)
  const end = Math.min(...states.map((one) => parseLsn(one.commitLsn)))
  expect(end).toBeGreaterThan(start)
  const digests = [first, second, third].map((_, index) =>
    walDigest(join(zenith.dir, 'safekeepers', `sk${index + 1}`), start, end),
  )
  expect(new Set(digests).size).toBe(1)
})

test('a record larger than what may wait for a quorum is committed, by all in the end', async () => {
  await using zenith = await Installation.create({ safekeepers: 3 })
  const compute = await zenith.startCompute('main', { settings: { max_wal_size: '4GB' } })
  const client = await compute.connect()
  const [, , third] = zenith.safekeepers
  await third?.stop('SIGKILL')
  await client.query('CREATE TABLE t AS SELECT 1 AS i')
  // One record, of which no safekeeper acknowledges a part (compute/proposer/wal-window.ts).
  const large = `SELECT pg_logical_emit_message(true, 'x', repeat('y', 150000000))`
  await client.query(`BEGIN; INSERT INTO t VALUES (2); ${large}; COMMIT`)
  await third?.start()
  await client.query(`BEGIN; INSERT INTO t VALUES (3); ${large}; COMMIT`)
  await client.end()
  const { timelineId } = compute.spec
  await expect
    .poll(
      async () => new Set((await timelines(zenith, timelineId)).map((one) => one.flushLsn)).size,
    )
    .toBe(1)
  // The page server is behind all of it, or there would be no branch.
  await zenith.createBranch('behind')
  const branch = await zenith.startCompute('behind')
  expect(await branch.value('SELECT sum(i)::int FROM t')).toBe(6)

  const [state] = await timelines(zenith, timelineId)
  if (state === undefined) throw new Error('no safekeeper answered')
  expect(parseLsn(state.commitLsn) - parseLsn(state.startLsn)).toBeGreaterThan(300_000_000)
  const digests = await Promise.all(
    zenith.safekeeperNodes.map(({ host, httpPort }) =>
      callSafekeeper(`http://${host}:${httpPort}`, 'digest', {
        params: { tenantId: zenith.tenantId, timelineId },
        query: { from: state.startLsn, to: state.commitLsn },
      }),
    ),
  )
  expect(new Set(digests.map(({ sha256 }) => sha256)).size).toBe(1)
})

test('two safekeepers: both are needed', async () => {
  await using zenith = await Installation.create({ safekeepers: 2 })
  const compute = await zenith.startCompute('main')
  const client = await compute.connect()
  await client.query('CREATE TABLE t (i int)')
  await zenith.safekeepers[1]?.stop('SIGKILL')
  let answered = false
  const hanging = client.query('INSERT INTO t VALUES (1)').then(() => {
    answered = true
  })
  await sleep(2000)
  expect(answered).toBe(false)
  await zenith.safekeepers[1]?.start()
  await hanging
  await client.end()
})
