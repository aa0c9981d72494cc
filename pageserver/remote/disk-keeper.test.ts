import { copyFile, rename } from 'node:fs/promises'
import { expect, test, vi } from 'vitest'
import type { Layer } from '../layers/layer.ts'
import {
  checkRound,
  lsnOf,
  putRound,
  type RemoteServer,
  RemoteWorld,
} from '../tenants/testing/remote-world.ts'

const LAYER_BYTES = 24 * 8192
const LAST = 5

async function serverWithLayers(world: RemoteWorld, disk: object): Promise<RemoteServer> {
  const server = await world.server('one', {
    disk: { tenantFloorBytes: 0, headroom: 0, ...disk },
    limits: { chunkCacheBytes: 0 },
  })
  const timeline = await server.create()
  for (let round = 1; round <= LAST; round++) {
    putRound(timeline, round)
    await timeline.flush()
  }
  return server
}

const oldestFirst = (server: RemoteServer): Layer[] =>
  server.timeline.layers.newestFirst.toReversed()
const resident = (server: RemoteServer) => oldestFirst(server).map((layer) => layer.isResident)

test('what was used least goes until the bound holds, and comes back when it is read', async () => {
  await using world = await RemoteWorld.create()
  const server = await serverWithLayers(world, { maxBytes: 3.5 * LAYER_BYTES })
  for (const [index, layer] of oldestFirst(server).entries())
    layer.lastAccessMs = 1000 * (1 + index)
  await checkRound(server.timeline, 1)
  await server.manager.keepDisk()
  expect(resident(server)).toEqual([false, true, false, false, true, true])
  expect(server.manager.remoteStats.disk).toMatchObject({
    evictedFiles: 3,
    shortBytes: 0,
    residentBytes: oldestFirst(server).reduce(
      (sum, layer) => sum + (layer.isResident ? layer.sizeBytes : 0),
      0,
    ),
  })
  // There is no room for it: it is read from object storage, and room is made for the next time.
  await checkRound(server.timeline, 2)
  expect(resident(server)).toEqual([false, true, false, false, true, true])
  for (let round = 0; round <= LAST; round++) await checkRound(server.timeline, round)
})

test('room is made for what is wanted', async () => {
  await using world = await RemoteWorld.create()
  const server = await serverWithLayers(world, { maxBytes: 4.1 * LAYER_BYTES, headroom: 0.25 })
  for (const [index, layer] of oldestFirst(server).entries())
    layer.lastAccessMs = 1000 * (1 + index)
  await server.manager.keepDisk()
  expect(resident(server)).toEqual([false, false, false, true, true, true])
  await checkRound(server.timeline, 1)
  await vi.waitFor(() => expect(resident(server)[1]).toBe(true))
  await checkRound(server.timeline, 2)
  await server.manager.keepDisk()
  expect(resident(server).filter(Boolean).length).toBe(3)
  await checkRound(server.timeline, 2)
  await vi.waitFor(() => expect(resident(server)[2]).toBe(true))
  expect(resident(server)[3]).toBe(false)
})

test('the floor of a tenant stays, and what is nowhere else', async () => {
  await using world = await RemoteWorld.create()
  const server = await serverWithLayers(world, {
    maxBytes: 0,
    tenantFloorBytes: 1.5 * LAYER_BYTES,
  })
  world.store.before = (call) => {
    if (call === 'putFile') throw new Error('the network is down')
  }
  putRound(server.timeline, LAST + 1)
  server.timeline.relieve()
  await vi.waitFor(() => expect(server.timeline.diskConsistentLsn).toBe(lsnOf(LAST + 1)))
  await server.manager.keepDisk()
  expect(resident(server)).toEqual([false, false, false, false, true, true, true])
  expect(server.manager.remoteStats.disk.shortBytes).toBeGreaterThan(2 * LAYER_BYTES)
  await checkRound(server.timeline, LAST + 1)
  world.store.heal()
  await server.timeline.flush()
  await server.manager.keepDisk()
  expect(resident(server)).toEqual([false, false, false, false, false, true, true])
})

test('times of use survive a restart', async () => {
  await using world = await RemoteWorld.create()
  const server = await serverWithLayers(world, { maxBytes: null })
  const minute = 60_000
  for (const [index, layer] of oldestFirst(server).entries()) {
    layer.lastAccessMs = (100 - index) * minute
  }
  await server.manager.keepDisk()
  await server.restart()
  expect(oldestFirst(server).map((layer) => layer.lastAccessMs / minute)).toEqual([
    100, 99, 98, 97, 96, 95,
  ])
  const before = [...server.state.accesses.getKeys()].length
  await oldestFirst(server)[0]?.evict()
  await server.restart()
  expect(oldestFirst(server)[0]?.lastAccessMs).toBe(0)
  const keys = () => [...server.state.accesses.getKeys()].length
  await vi.waitFor(() => expect(keys()).toBe(before - 1))
})

test('files that object storage shares are not dropped for a full file system', async () => {
  await using world = await RemoteWorld.create()
  const server = await serverWithLayers(world, { maxUsagePercent: 0 })
  await server.manager.keepDisk()
  expect(resident(server).every(Boolean)).toBe(true)
  // A file of its own is what frees room.
  const [layer] = oldestFirst(server)
  await copyFile(layer?.path as string, `${layer?.path}.copy`)
  await rename(`${layer?.path}.copy`, layer?.path as string)
  await server.manager.keepDisk()
  expect(resident(server)).toEqual([false, true, true, true, true, true])
})

test('a flush that finds the disk full makes room and is tried again', async () => {
  await using world = await RemoteWorld.create()
  const server = await serverWithLayers(world, { tenantFloorBytes: 100 * LAYER_BYTES })
  for (const { path } of oldestFirst(server)) {
    await copyFile(path, `${path}.copy`)
    await rename(`${path}.copy`, path)
  }
  let isFull = true
  server.onStep = (step) => {
    if (step !== 'delta-written' || !isFull) return
    isFull = false
    throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
  }
  putRound(server.timeline, LAST + 1)
  await server.timeline.flush()
  expect(isFull).toBe(false)
  expect(server.warnings.join()).toContain('no space left')
  expect(server.manager.remoteStats.disk.evictedFiles).toBe(LAST + 1)
  for (let round = 0; round <= LAST + 1; round++) await checkRound(server.timeline, round)
})
