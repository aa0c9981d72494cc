/** A tenant leaves object storage by the real queue, or stays when somebody newer has it. */
import { expect, test, vi } from 'vitest'
import {
  checkRound,
  putRound,
  type RemoteServer,
  RemoteWorld,
} from '../tenants/testing/remote-world.ts'

const LAST = 3

async function churn(server: RemoteServer): Promise<void> {
  for (let round = 1; round <= LAST; round++) {
    putRound(server.timeline, round)
    await server.timeline.flush()
  }
}

/** As the control plane asks for it, again and again. */
async function deleteAll({ tenant }: RemoteServer): Promise<number> {
  await tenant.beginEnd()
  for (let next = tenant.lives.nextToDelete(); next; next = tenant.lives.nextToDelete()) {
    await tenant.lives.delete(next)
  }
  return await tenant.lives.emptyStorage()
}

test('objects go at the word of the control plane, and nothing is left of the tenant', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  await server.create()
  await churn(server)
  for (const layer of server.timeline.layers.newestFirst) layer.lastAccessMs = 600_000
  await server.manager.keepDisk()
  const keys = () => [...server.state.accesses.getKeys()]
  // What is kept on local disk is written and removed by and by.
  await vi.waitFor(() => expect(keys().length).toBeGreaterThan(LAST))
  world.isControlUp = false
  server.deletions.start()
  const objects = (await world.objects()).length
  // The manifest that says so came to what was there.
  expect(await deleteAll(server)).toBe(objects + 1)
  expect(await server.deletions.drain()).toBe(false)
  expect(await world.objects()).toHaveLength(objects + 1)
  await server.restart()
  expect(server.tenant.timelines()).toEqual([])
  world.isControlUp = true
  server.deletions.start()
  for (let round = 0; (await deleteAll(server)) > 0; round++) {
    expect(round).toBeLessThan(4)
    expect(await server.deletions.drain()).toBe(true)
  }
  expect(await world.objects()).toEqual([])
  await server.manager.detach(world.tenantId)
  expect(server.manager.tenants()).toEqual([])
  await vi.waitFor(() => expect([...server.state.deletions.getKeys()]).toEqual([]))
  await vi.waitFor(() => expect(keys()).toEqual([]))
})

test('a stale page server that is told to delete the tenant deletes nothing of it', async () => {
  await using world = await RemoteWorld.create()
  const old = await world.server('one')
  await old.create()
  await churn(old)
  const newer = await world.server('two')
  putRound(newer.timeline, LAST + 1)
  await newer.timeline.flush()
  const before = await world.objects()
  old.deletions.start()
  expect(await deleteAll(old)).toBeGreaterThan(before.length)
  expect(await old.deletions.drain()).toBe(true)
  expect(await world.objects()).toEqual(expect.arrayContaining(before))
  await newer.restart({ wipeDisk: true })
  for (let round = 0; round <= LAST + 1; round++) await checkRound(newer.timeline, round)
})
