/** What may happen to a compute, and that its data never depends on it. */
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it, onTestFailed } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import { isLeft, type SharedMemory, sharedMemoryOf } from '../../compute/shared-memory.ts'
import type { Compute } from '../fixtures/compute.ts'
import { freePort } from '../fixtures/free-port.ts'
import { Installation } from '../fixtures/installation.ts'

const SOON = { timeout: 60_000 }

/** The folder of the Unix socket. */
async function socketsOf(compute: Compute): Promise<string> {
  return String(await compute.value('SHOW unix_socket_directories'))
}

async function installation(options = {}): Promise<Installation> {
  const zenith = await Installation.create(options)
  onTestFailed(() => console.error(zenith.logs()))
  return zenith
}

it('loses nothing when its folder is deleted', async () => {
  await using zenith = await installation()
  const first = await zenith.startCompute()
  await first.query(
    'CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 5000) g',
  )
  await first.query('CREATE INDEX ON t (text)')
  const before = await first.value(`SELECT md5(string_agg(text, '' ORDER BY id)) FROM t`)
  expect(await first.stop()).toBe(0)
  first.deleteData()
  expect(existsSync(first.dataFolder)).toBe(false)

  const second = await zenith.startCompute()
  expect(await second.value(`SELECT md5(string_agg(text, '' ORDER BY id)) FROM t`)).toBe(before)
  await second.query('INSERT INTO t VALUES (0, $$after$$)')

  await second.kill()
  second.deleteData()
  const third = await zenith.startCompute()
  expect(await third.value('SELECT count(*) FROM t')).toBe('5001')
})

it('is told apart by status: running, stopped, crashed', async () => {
  await using zenith = await installation()
  const compute = await zenith.startCompute()
  await expect.poll(async () => (await compute.info()).status, SOON).toBe('running')
  const status = await compute.status()
  expect(status).toMatchObject({ state: 'running', phase: 'running' })
  expect(status.phasesMs).toHaveProperty('electing')
  const { httpPort } = await compute.info()
  const get = (path: string) => fetch(`http://127.0.0.1:${httpPort}${path}`)
  expect(await (await get('/healthz')).json()).toEqual({ status: 'ok', service: 'compute' })
  expect(await (await get('/metrics')).text()).toContain(
    'zenith_compute_running{service="compute"} 1',
  )
  expect((await get('/nothing')).status).toBe(404)

  await compute.stop()
  expect(await compute.info()).toMatchObject({ status: 'stopped', error: null })

  const again = await zenith.startCompute()
  await expect.poll(async () => (await again.info()).status, SOON).toBe('running')
  const { postgresPid } = await again.status()
  process.kill(postgresPid as number, 'SIGSEGV')
  expect(await again.exited).toBe(1)
  const crashed = await again.info()
  expect(crashed.status).toBe('crashed')
  expect(crashed.error).toContain('SIGSEGV')
})

it('keeps to the quorum whatever its configuration files say', async () => {
  await using zenith = await installation()
  const compute = await zenith.startCompute()
  const client = await compute.connect()
  for (const change of ["synchronous_standby_names = ''", 'restart_after_crash = on']) {
    await expect(client.query(`ALTER SYSTEM SET ${change}`)).rejects.toThrow(/cannot be changed/)
    appendFileSync(join(compute.dataFolder, 'postgresql.auto.conf'), `${change}\n`)
  }
  await client.query('SELECT pg_reload_conf()')
  await sleep(500)
  const shown = await client.query(
    `SELECT setting FROM pg_settings
      WHERE name IN ('synchronous_standby_names', 'restart_after_crash') ORDER BY name`,
  )
  expect(shown.rows).toEqual([{ setting: 'off' }, { setting: 'walproposer' }])
  await client.end()
})

it('takes its Postgres along when it is killed; what that leaves goes at the next start', async () => {
  await using zenith = await installation()
  const compute = await zenith.startCompute()
  await expect.poll(async () => (await compute.info()).status, SOON).toBe('running')
  const { postgresPid } = await compute.status()
  const memory = sharedMemoryOf(compute.dataFolder) as SharedMemory
  const sockets = await socketsOf(compute)
  await compute.kill()
  const alive = () => {
    try {
      process.kill(postgresPid as number, 0)
      return true
    } catch {
      return false
    }
  }
  await expect.poll(alive, SOON).toBe(false)
  expect((await compute.info()).status).toBe('crashed')

  const segments = () => readFileSync('/proc/sysvipc/shm', 'utf8')
  await expect.poll(() => isLeft(segments(), memory), SOON).toBe(true)
  const leftFiles = () => memory.files.filter((name) => existsSync(join('/dev/shm', name)))
  expect(leftFiles()).toEqual(memory.files)
  expect(existsSync(sockets)).toBe(true)
  const again = await zenith.startCompute()
  expect(isLeft(segments(), memory)).toBe(false)
  expect(leftFiles()).toEqual([])
  expect(existsSync(sockets)).toBe(false)

  // A later start replaces it while it runs: it ends, and takes away only what is its own.
  const { attempt } = again.spec
  const replaced = await socketsOf(again)
  const next = zenith.launchSpec({ ...again.spec, attempt: attempt + 1, port: await freePort() })
  expect(await again.exited).toBe(3)
  await next.ready()
  expect(await socketsOf(next)).not.toBe(replaced)
  expect(existsSync(await socketsOf(next))).toBe(true)
  // The supervisor streams its WAL by the socket there; nothing commits without.
  await next.query('CREATE TABLE t ()')
})

it('is refused as a second writer, and fenced when it comes past that', async () => {
  await using zenith = await installation()
  const first = await zenith.startCompute('main')
  await first.query('CREATE TABLE t (id int)')
  await first.query('INSERT INTO t VALUES (1)')
  await expect(zenith.startCompute('main', { name: 'second' })).rejects.toThrow(
    /Branch "main" has a writer already: endpoint "main" is running/,
  )

  // Started behind the control plane's back, as after a split network.
  const spec = { ...first.spec, endpoint: 'usurper', port: await freePort(), attempt: 0 }
  const usurper = zenith.launchSpec(spec)
  await usurper.ready()
  expect(await first.exited).toBe(3)
  expect(await first.info()).toMatchObject({ status: 'fenced' })
  await usurper.query('INSERT INTO t VALUES (2)')
  expect(await usurper.query('SELECT id FROM t ORDER BY id')).toEqual([{ id: 1 }, { id: 2 }])
})

it('starts again after a power cut with every acknowledged row', async () => {
  await using zenith = await installation()
  const compute = await zenith.startCompute()
  await compute.query('CREATE TABLE t (id int PRIMARY KEY)')
  const client = await compute.connect()
  let acknowledged = 0
  const load = (async () => {
    for (let id = 1; ; id++) {
      await client.query('INSERT INTO t VALUES ($1)', [id])
      acknowledged = id
    }
  })().catch(() => undefined)
  await expect.poll(() => acknowledged, { timeout: 60_000 }).toBeGreaterThan(100)
  await zenith.killAll()
  await load

  await zenith.start()
  const again = await zenith.startCompute()
  const rows = Number(await again.value('SELECT count(*) FROM t'))
  expect(rows).toBeGreaterThanOrEqual(acknowledged)
  expect(rows).toBeLessThanOrEqual(acknowledged + 1)
  expect(Number(await again.value('SELECT max(id) FROM t'))).toBe(rows)
})

it('makes branches under load that hold every acknowledged row', async () => {
  await using zenith = await installation()
  const main = await zenith.startCompute()
  await main.query('CREATE TABLE t (id int PRIMARY KEY)')
  const client = await main.connect()
  let acknowledged = 0
  let loading = true
  const load = (async () => {
    for (let id = 1; loading; id++) {
      await client.query('INSERT INTO t VALUES ($1)', [id])
      acknowledged = id
    }
  })()
  for (let round = 0; round < 3; round++) {
    await sleep(200)
    const atLeast = acknowledged
    await zenith.createBranch(`b${round}`)
    const branch = await zenith.startCompute(`b${round}`)
    const rows = Number(await branch.value('SELECT count(*) FROM t'))
    expect(rows).toBeGreaterThanOrEqual(atLeast)
    expect(Number(await branch.value('SELECT max(id) FROM t'))).toBe(rows)
    await branch.query('INSERT INTO t VALUES (-1)')
    await branch.stop()
  }
  loading = false
  await load
  await client.end()
  expect(Number(await main.value('SELECT count(*) FROM t'))).toBe(acknowledged)
})

it('branches at an LSN, from a compute that was killed, and refuses what is out of range', async () => {
  await using zenith = await installation()
  const main = await zenith.startCompute()
  await main.query('CREATE TABLE t (id int)')
  await main.query('INSERT INTO t VALUES (1)')
  const lsn = String(await main.value('SELECT pg_current_wal_flush_lsn()'))
  await main.query('INSERT INTO t VALUES (2)')

  await zenith.createBranch('past', { lsn })
  const past = await zenith.startCompute('past')
  expect(await past.query('SELECT id FROM t')).toEqual([{ id: 1 }])

  await main.kill()
  await zenith.createBranch('after-crash')
  const after = await zenith.startCompute('after-crash')
  expect(await after.query('SELECT id FROM t ORDER BY id')).toEqual([{ id: 1 }, { id: 2 }])

  await expect(zenith.createBranch('x', { lsn: '7F/0' })).rejects.toThrow(/has no LSN 7F\/0/)
  await expect(zenith.createBranch('x', { lsn: '0/10' })).rejects.toThrow(/it reaches from/)
  await expect(zenith.createBranch('past')).rejects.toThrow(
    /There is a branch named "past" already/,
  )
  await expect(zenith.createBranch('x', { from: 'mian' })).rejects.toMatchObject({
    hint: 'Did you mean "main"?',
  })
  const params = { tenantId: zenith.tenantId }
  const branches = await callControl(zenith.controlUrl, 'listBranches', { params })
  expect(branches.map(({ name }) => name)).toEqual(['main', 'past', 'after-crash'])
})

it('decides a tail in doubt by syncing, so that a branch holds every acknowledged row', async () => {
  await using zenith = await installation({ safekeepers: 3 })
  const main = await zenith.startCompute()
  await main.query('CREATE TABLE t (writer int, id int)')
  const acknowledged = [0, 0, 0, 0]
  const writers = acknowledged.map(async (_, writer) => {
    const client = await main.connect()
    for (let id = 1; ; id++) {
      await client.query('INSERT INTO t VALUES ($1, $2)', [writer, id])
      acknowledged[writer] = id
    }
  })
  // Settled before the kill: a writer that fails while we wait for it is expected, not unhandled.
  const ended = Promise.allSettled(writers)
  await expect.poll(() => Math.min(...acknowledged), SOON).toBeGreaterThan(50)
  await main.kill()
  await ended

  await zenith.createBranch('after')
  const after = await zenith.startCompute('after')
  for (const [writer, atLeast] of acknowledged.entries()) {
    const rows = Number(await after.value(`SELECT count(*) FROM t WHERE writer = ${writer}`))
    expect(rows).toBeGreaterThanOrEqual(atLeast)
    expect(rows).toBeLessThanOrEqual(atLeast + 1)
  }
})

it('stops in bounded time when no quorum is left', async () => {
  await using zenith = await installation()
  const compute = await zenith.startCompute()
  await compute.query('CREATE TABLE t AS SELECT 1 AS id')
  await zenith.safekeepers[0]?.stop('SIGKILL')
  expect(await compute.stop()).toBe(0)
  await zenith.start()
  const again = await zenith.startCompute()
  expect(await again.value('SELECT count(*) FROM t')).toBe('1')
})
