/** `zenith pg promote`, with a load whose every acknowledged commit must be there afterwards. */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { expect, test } from 'vitest'
import { Ledger } from '../fixtures/ledger.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

interface Listed {
  name: string
  mode: string
  status: string
  uri: string | null
  lagBytes: number | null
}

test('a replica takes over under load, back again, and a failed attempt harms nobody', async () => {
  await using zenith = new ZenithCommand()
  await zenith.ok('init --safekeepers 3')
  await zenith.ok('start')
  await zenith.ok('pg start main')
  await zenith.ok('pg create follower --branch main --replica --set shared_buffers=4MB')
  await zenith.ok('pg start follower')
  const listed = await zenith.json<Listed[]>('pg list')
  expect(listed.map(({ name, mode, status }) => [name, mode, status])).toEqual([
    ['main', 'primary', 'running'],
    ['follower', 'replica', 'running'],
  ])
  await expect.poll(() => zenith.ok('pg list')).toMatch(/follower +replica +\d+ B$/m)

  // Clients find the primary by trying, as they would with target_session_attrs=read-write.
  const uris = listed.map(({ uri }) => String(uri))
  const ledger = new Ledger(() => connectToPrimary(uris), 3)
  await ledger.createTables()
  ledger.start()
  await ledger.progress(100, 60_000)
  expect(await zenith.ok('pg promote follower')).toMatch(
    /^Stopping postgres main, the primary of main\.\.\.\n[^]*Postgres follower is the primary of main now/,
  )
  await ledger.progress(100, 60_000)
  expect(await ledger.violations()).toEqual([])
  const rival = await zenith.run('pg start main')
  expect(rival.code).toBe(4)
  expect(rival.stderr).toContain('has a writer already: endpoint "follower"')
  expect((await zenith.run('pg promote follower')).stderr).toContain('is the primary of branch')

  // The old primary becomes a replica of the new one, and takes over again, this time from a crash.
  await zenith.ok('pg destroy main')
  await zenith.ok('pg start second --branch main --replica')
  const second = (await zenith.json<Listed[]>('pg list')).find(({ name }) => name === 'second')
  uris.push(String(second?.uri))
  process.kill(
    zenith.pidOf(`pgdatadirs/tenants/${zenith.tenantId}/follower/compute.pid`),
    'SIGKILL',
  )
  await zenith.ok('pg promote second')
  await ledger.progress(100, 60_000)
  expect(await ledger.violations()).toEqual([])

  // Without a pageserver nobody can start; the one that was stopped for it can, once it is back.
  await zenith.ok('pg start third --branch main --replica')
  process.kill(zenith.pidOf('pageserver/pageserver.pid'), 'SIGKILL')
  const failed = await zenith.run('pg promote third')
  expect(failed.code).not.toBe(0)
  expect(failed.stderr).toMatch(/Start the old primary again: \S*zenith pg start second/)
  await zenith.ok('start')
  expect((await zenith.json<Listed[]>('pg list')).map(({ name, mode }) => [name, mode])).toEqual([
    ['follower', 'primary'],
    ['second', 'primary'],
    ['third', 'replica'],
  ])
  await zenith.ok('pg start second')
  await ledger.progress(50, 60_000)
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  await zenith.ok('pg start third')
  expect(await zenith.sql('third', 'SELECT pg_is_in_recovery() AS yes')).toEqual([{ yes: true }])
})

test('what cannot be promoted says why', async () => {
  await using zenith = new ZenithCommand()
  await zenith.ok('init')
  await zenith.ok('start')
  await zenith.ok('pg start main')
  await zenith.ok('pg create view --branch main --lsn end')
  const [, view] = await zenith.json<{ readLsn: string }[]>('pg list')
  const refused = await zenith.run('pg promote view')
  expect(refused.code).toBe(4)
  expect(refused.stderr).toContain(`zenith branch <name> main@${view?.readLsn}`)
  expect((await zenith.run('pg promote nobody')).code).toBe(3)
  const both = await zenith.run('pg create odd --branch main --replica --lsn end')
  expect(both.code).toBe(2)
})

/** Tries each until one takes writes. */
async function connectToPrimary(uris: readonly string[]): Promise<pg.Client> {
  for (const connectionString of uris) {
    const client = new pg.Client({ connectionString, connectionTimeoutMillis: 5_000 })
    client.on('error', () => {})
    try {
      await client.connect()
      const { rows } = await client.query('SELECT pg_is_in_recovery() AS standby')
      if (rows[0]?.standby === false) return client
    } catch {
      // Not this one, or not yet.
    }
    await client.end().catch(() => {})
  }
  await sleep(50)
  throw new Error('there is no primary now')
}
