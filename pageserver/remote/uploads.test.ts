import { readdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import { expect, test, vi } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { checkRound, lsnOf, putRound, RemoteWorld } from '../tenants/testing/remote-world.ts'

/** Rather than a second, on a busy machine. */
const SOON = { timeout: 60_000 }

test('with all uploads failing WAL is taken in; healed, the queue drains', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  const timeline = await server.create()
  world.store.before = (call) => {
    if (call === 'put' || call === 'putFile') throw new Error('the network is down')
  }
  const flushed: Promise<void>[] = []
  for (let round = 1; round <= 6; round++) {
    putRound(timeline, round)
    flushed.push(timeline.flush())
    await vi.waitFor(() => expect(timeline.diskConsistentLsn).toBe(lsnOf(round)), SOON)
    await timeline.waitForRoom()
  }
  expect(timeline.remoteConsistentLsn).toBe(lsnOf(0))
  await vi.waitFor(
    () => expect(server.manager.remoteStats.uploads.retries).toBeGreaterThan(3),
    SOON,
  )
  expect(server.manager.remoteStats.uploads.pendingBytes).toBeGreaterThan(6 * 24 * 8192)
  await checkRound(timeline, 3)
  expect(server.warnings.join()).toContain('the network is down')
  world.store.heal()
  await Promise.all(flushed)
  expect(timeline.remoteConsistentLsn).toBe(lsnOf(6))
  expect(server.manager.remoteStats.uploads).toMatchObject({ queued: 0, pendingBytes: 0 })
  await server.restart({ wipeDisk: true })
  for (const round of [0, 3, 6]) await checkRound(server.timeline, round)
})

test('ingest waits when too much is on local disk only, and goes on when it is uploaded', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one', { limits: { maxPendingUploadBytes: 300_000 } })
  const timeline = await server.create()
  world.store.before = (call) => {
    if (call === 'putFile') throw new Error('the network is down')
  }
  for (let round = 1; round <= 2; round++) {
    putRound(timeline, round)
    timeline.relieve()
    await vi.waitFor(() => expect(timeline.diskConsistentLsn).toBe(lsnOf(round)), SOON)
  }
  let waited = true
  const room = timeline.waitForRoom().then(() => {
    waited = false
  })
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(waited).toBe(true)
  world.store.heal()
  await room
  await vi.waitFor(() => expect(timeline.remoteConsistentLsn).toBe(lsnOf(2)), SOON)
})

test('layers are uploaded side by side, and the manifest after all of them', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  const timeline = await server.create()
  const first = Promise.withResolvers<void>()
  const rest = Promise.withResolvers<void>()
  let begun = 0
  world.store.before = async (call) => {
    if (call === 'putFile') await (begun++ === 0 ? first : rest).promise
  }
  const manifests = () => world.store.count('put', '/manifests/')
  const before = manifests()
  for (let round = 1; round <= 6; round++) {
    putRound(timeline, round)
    timeline.relieve()
    await vi.waitFor(() => expect(timeline.diskConsistentLsn).toBe(lsnOf(round)), SOON)
  }
  expect([begun, manifests()]).toEqual([1, before])
  // The first went alone, the rest go together: four at once, and one manifest for all.
  first.resolve()
  await vi.waitFor(() => expect([begun, manifests()]).toEqual([5, before + 1]), SOON)
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect([begun, manifests()]).toEqual([5, before + 1])
  rest.resolve()
  await timeline.flush()
  expect([begun, manifests()]).toEqual([6, before + 2])
  expect(timeline.remoteConsistentLsn).toBe(lsnOf(6))
})

test('an upload whose answer was lost is no second writer', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  const timeline = await server.create()
  const lost = new Set<string>()
  world.store.after = (call, name) => {
    if ((call !== 'put' && call !== 'putFile') || lost.has(name)) return
    lost.add(name)
    throw new Error('no answer')
  }
  for (let round = 1; round <= 3; round++) {
    putRound(timeline, round)
    await timeline.flush()
  }
  expect(lost.size).toBeGreaterThanOrEqual(6)
  await server.restart({ wipeDisk: true })
  await checkRound(server.timeline, 3)
})

test('an object of another writer fences: nothing more is written, reads go on', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  const timeline = await server.create()
  let isTaken = false
  world.store.before = (call, name) => {
    if (call !== 'putFile' || isTaken) return
    isTaken = true
    return world.store.put(name, Buffer.from('what another process wrote'))
  }
  putRound(timeline, 1)
  await expect(timeline.flush()).rejects.toMatchObject({ code: 'fenced' })
  expect(timeline.fenced?.message).toContain('another page server has written')
  const calls = world.store.count('put')
  putRound(timeline, 2)
  await expect(timeline.flush()).rejects.toMatchObject({ code: 'fenced' })
  server.manager.tick(Date.now())
  expect(world.store.count('put')).toBe(calls)
  expect(timeline.remoteConsistentLsn).toBe(lsnOf(0))
  await checkRound(timeline, 2)
  // The next attachment goes on under another generation, from what is durable.
  await server.restart()
  putRound(server.timeline, 1)
  await server.timeline.flush()
  await server.restart({ wipeDisk: true })
  await checkRound(server.timeline, 1)
})

test('a shutdown does not wait for object storage for ever', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one', { limits: { shutdownFlushMs: 100 } })
  putRound(await server.create(), 1)
  world.store.before = (call) => {
    if (call === 'putFile') throw new ZenithError('unavailable', 'the network is down')
  }
  const startedAt = performance.now()
  await server.manager.shutdown()
  expect(performance.now() - startedAt).toBeLessThan(5000)
  expect(server.warnings.join()).toContain('its WAL will be read again')
})

test('files that were never named in a manifest go at the next start', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  const timeline = await server.create()
  putRound(timeline, 1)
  await timeline.flush()
  world.store.before = (call) => {
    if (call === 'putFile') throw new Error('the network is down')
  }
  // Written and renamed, not uploaded: a merge that a crash cuts short here leaves its files.
  const merged = timeline.compaction.compactL0().catch(() => undefined)
  const folder = dirname(timeline.layers.newestFirst[0]?.path as string)
  await vi.waitFor(async () => expect((await readdir(folder)).length).toBeGreaterThan(2), SOON)
  world.store.heal()
  world.store.before = (call) => {
    if (call === 'putFile') throw new ZenithError('internal', 'cut')
  }
  await merged
  await server.restart()
  const named = server.timeline.layers.newestFirst.map(({ fileName }) => fileName).sort()
  expect((await readdir(folder)).sort()).toEqual(named)
  for (const round of [0, 1]) await checkRound(server.timeline, round)
})
