import { expect, test, vi } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import {
  checkRound,
  lsnOf,
  putRound,
  type RemoteServer,
  RemoteWorld,
} from '../tenants/testing/remote-world.ts'

/** Writes rounds 1 to `last`, flushing each. */
async function churn(server: RemoteServer, last: number): Promise<void> {
  for (let round = 1; round <= last; round++) {
    putRound(server.timeline, round)
    await server.timeline.flush()
  }
}

/** Merges layers; returns the objects that are of no use then. */
async function collect(server: RemoteServer): Promise<string[]> {
  const { timeline } = server
  const names = () => timeline.layers.newestFirst.map(({ objectName }) => objectName)
  const before = names()
  await timeline.compaction.compactL0()
  const after = new Set(names())
  return before.filter((name) => !after.has(name))
}

const present = async (world: RemoteWorld, names: readonly string[]) => {
  const objects = new Set(await world.objects())
  return names.filter((name) => objects.has(name)).length
}

test('objects go after the manifest without them and the word of the control plane', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  await server.create()
  await churn(server, 3)
  world.isControlUp = false
  server.deletions.start()
  const gone = await collect(server)
  expect(gone.length).toBeGreaterThan(1)
  expect(await server.deletions.drain()).toBe(false)
  expect(await present(world, gone)).toBe(gone.length)
  await checkRound(server.timeline, 3)
  world.isControlUp = true
  expect(await server.deletions.drain()).toBe(true)
  expect(await present(world, gone)).toBe(0)
  await server.restart({ wipeDisk: true })
  await checkRound(server.timeline, 3)
})

test('the list survives a crash, and goes on under the next generation', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  await server.create()
  await churn(server, 3)
  const gone = await collect(server)
  await server.restart()
  expect(server.deletions.stats.queued).toBe(gone.length)
  expect(await present(world, gone)).toBe(gone.length)
  expect(await server.deletions.drain()).toBe(true)
  expect(await present(world, gone)).toBe(0)
  expect(server.deletions.stats).toMatchObject({ queued: 0, deleted: gone.length, dropped: 0 })
  await server.restart()
  expect(server.deletions.stats.queued).toBe(0)
  await checkRound(server.timeline, 3)
})

test('a list is dropped when another generation lies between', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  await server.create()
  await churn(server, 3)
  const gone = await collect(server)
  await server.crash()
  const other = await world.server('two')
  await other.crash()
  await server.start()
  expect(server.deletions.stats).toMatchObject({ queued: 0, dropped: gone.length })
  expect(await server.deletions.drain()).toBe(true)
  expect(await present(world, gone)).toBe(gone.length)
})

test('a stale page server deletes nothing and lets no WAL go', async () => {
  await using world = await RemoteWorld.create()
  const old = await world.server('old')
  await old.create()
  await churn(old, 2)
  expect(old.timeline.remoteConsistentLsn).toBe(lsnOf(2))
  // The new one starts from what is durable now; the old one goes on, not knowing.
  const next = await world.server('new')
  putRound(old.timeline, 3)
  await old.timeline.flush()
  const gone = await collect(old)
  expect(gone.length).toBeGreaterThan(1)
  expect(await old.deletions.drain()).toBe(true)
  expect(old.deletions.stats).toMatchObject({ queued: 0, deleted: 0 })
  expect(old.deletions.stats.dropped).toBeGreaterThanOrEqual(gone.length)
  expect(await present(world, gone)).toBe(gone.length)
  expect(old.timeline.remoteConsistentLsn).toBe(lsnOf(2))
  await checkRound(old.timeline, 3)
  // What the new one needs is there: it has no copy of its own.
  await checkRound(next.timeline, 1)
  await checkRound(next.timeline, 2)
  expect(next.timeline.lastRecordLsn).toBe(lsnOf(2))
  putRound(next.timeline, 3)
  await next.timeline.flush()
  expect(next.timeline.remoteConsistentLsn).toBe(lsnOf(3))
})

test('without the control plane reads and writes go on, and WAL is kept', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  const timeline = await server.create()
  world.isControlUp = false
  putRound(timeline, 1)
  await timeline.flush()
  expect(timeline.diskConsistentLsn).toBe(lsnOf(1))
  expect(timeline.remoteConsistentLsn).toBe(lsnOf(0))
  await checkRound(timeline, 1)
  world.isControlUp = true
  server.manager.tick(Date.now())
  await vi.waitFor(() => expect(timeline.remoteConsistentLsn).toBe(lsnOf(1)))
})

test('what a start found durable counts only when it is confirmed', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  await server.create()
  await server.crash()
  world.isControlUp = false
  await server.start()
  expect(server.timeline.lastRecordLsn).toBe(lsnOf(0))
  expect(server.timeline.remoteConsistentLsn).toBe(0)
  world.isControlUp = true
  await server.timeline.confirm()
  expect(server.timeline.remoteConsistentLsn).toBe(lsnOf(0))
})

for (const stop of ['deletion-queued', 'deletion-validated', 'objects-deleted'] as const) {
  test(`a crash at step ${stop} loses nothing that is read`, async () => {
    await using world = await RemoteWorld.create()
    let armed = false
    const server = await world.server('one', {
      onDeletionStep: (step) => {
        if (armed && step === stop) throw new Error(`stop at ${step}`)
      },
    })
    await server.create()
    await churn(server, 3)
    armed = true
    const collected = collect(server)
    if (stop === 'deletion-queued') await expect(collected).rejects.toThrow('stop at')
    else {
      await collected
      expect(await server.deletions.drain()).toBe(false)
    }
    armed = false
    await server.restart()
    await checkRound(server.timeline, 3)
    expect(await server.deletions.drain()).toBe(true)
    await server.restart({ wipeDisk: true })
    await checkRound(server.timeline, 3)
    const layers = (await world.objects()).filter((name) => name.includes('/layers/'))
    expect(layers).toEqual(server.timeline.layers.newestFirst.map((l) => l.objectName).sort())
  })
}

test('manifests before the last two snapshots go', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  const timeline = await server.create()
  for (let round = 1; round <= 4; round++) {
    putRound(timeline, round)
    await timeline.flush()
  }
  for (let life = 0; life < 4; life++) {
    putRound(server.timeline, 5 + life)
    await server.timeline.flush()
    expect(await server.deletions.drain()).toBe(true)
    await server.restart()
  }
  const manifests = (await world.objects()).filter((name) => name.includes('/manifests/'))
  expect(manifests.map((name) => name.slice(-19, -9))).toEqual(['m-00000003', 'm-00000004'])
  await checkRound(server.timeline, 8)
  await server.restart({ wipeDisk: true })
  await checkRound(server.timeline, 8)
})

test('an object that another timeline refers to stays', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  await server.create()
  await churn(server, 2)
  const child = newTimelineId()
  await server.tenant.branchTimeline(child, {
    ancestorTimelineId: world.timelineId,
    ancestorLsn: lsnOf(2),
  })
  const parent = server.timeline
  const branch = server.tenant.timeline(child)
  await branch.change({
    adopt: parent.layers.newestFirst.map((layer) => ({
      ...layer.entry,
      origin: world.timelineId,
      ceilingLsn: lsnOf(2) + 1,
    })),
  })
  putRound(parent, 3)
  const gone = await collect(server)
  expect(gone.length).toBeGreaterThan(1)
  expect(await server.deletions.drain()).toBe(true)
  expect(await present(world, gone)).toBe(gone.length)
  await checkRound(branch, 2)
})
