import { readdir, truncate } from 'node:fs/promises'
import { dirname } from 'node:path'
import { expect, test, vi } from 'vitest'
import { KeyClass } from '../keyspace/key-class.ts'
import type { Layer } from '../layers/layer.ts'
import type { Timeline } from '../timeline/timeline.ts'
import {
  checkRound,
  lsnOf,
  putRound,
  type RemoteServer,
  RemoteWorld,
} from '../tenants/testing/remote-world.ts'

const LAST = 4

/** Five layers, of which local disk then has none. */
async function coldServer(world: RemoteWorld): Promise<RemoteServer> {
  // No chunk is kept in memory.
  const server = await world.server('one', { limits: { chunkCacheBytes: 0 } })
  const timeline = await server.create()
  for (let round = 1; round <= LAST; round++) {
    putRound(timeline, round)
    await timeline.flush()
  }
  await server.restart({ wipeDisk: true })
  world.store.calls.length = 0
  return server
}

const layersOf = (timeline: Timeline) => timeline.layers.newestFirst
const isLocal = (layer: Layer) =>
  readdir(dirname(layer.path)).then((names) => names.includes(layer.fileName))

test('a key that is not there costs no data, and no file', async () => {
  await using world = await RemoteWorld.create()
  const { timeline } = await coldServer(world)
  const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 99, 0)
  expect((await timeline.readPage(slot, 0, lsnOf(LAST))).equals(Buffer.alloc(8192))).toBe(true)
  expect(world.store.count('getRange')).toBe(LAST + 1)
  expect(world.store.count('getFile')).toBe(0)
  expect(layersOf(timeline).every((layer) => layer.isLoaded && !layer.isResident)).toBe(true)
})

test('a read waits for ranges, never for a whole file', async () => {
  await using world = await RemoteWorld.create()
  const { timeline } = await coldServer(world)
  const file = Promise.withResolvers<void>()
  world.store.before = (call) => (call === 'getFile' ? file.promise : undefined)
  await Promise.all([checkRound(timeline, 2), checkRound(timeline, 2), checkRound(timeline, 1)])
  const wanted = layersOf(timeline).filter(
    ({ id }) => id.endLsn <= lsnOf(2) + 1 && id.startLsn > lsnOf(0),
  )
  expect(wanted).toHaveLength(2)
  expect(wanted.some((layer) => layer.isResident)).toBe(false)
  file.resolve()
  await vi.waitFor(() => expect(wanted.every((layer) => layer.isResident)).toBe(true))
  // One for each layer that was read, whoever asks.
  expect(world.store.count('getFile')).toBe(2)
  const ranges = world.store.count('getRange')
  await checkRound(timeline, 2)
  expect(world.store.count('getRange')).toBe(ranges)
  expect(await Promise.all(wanted.map(isLocal))).toEqual([true, true])
})

test('object storage that fails for a while delays a read, and one that is away fails it', async () => {
  await using world = await RemoteWorld.create()
  const { timeline } = await coldServer(world)
  let failures = 2
  world.store.before = (call) => {
    if (call === 'getRange' && failures-- > 0) throw new Error('the network is down')
  }
  await checkRound(timeline, 3)
  failures = Number.POSITIVE_INFINITY
  await expect(checkRound(timeline, 1)).rejects.toMatchObject({
    code: 'unavailable',
    message: expect.stringContaining('the network is down'),
  })
  world.store.heal()
  await checkRound(timeline, 1)
})

test('a file that arrives damaged is not used', async () => {
  await using world = await RemoteWorld.create()
  const { timeline } = await coldServer(world)
  // A range is checked by its own checksums, a whole file by size and footer.
  const getFile = world.store.getFile.bind(world.store)
  let damaged = 0
  world.store.getFile = async (name, path) => {
    await getFile(name, path)
    await truncate(path, 1000)
    damaged++
  }
  await checkRound(timeline, 3)
  await vi.waitFor(() => expect(damaged).toBeGreaterThan(0))
  const [layer] = layersOf(timeline)
  await vi.waitFor(async () => {
    expect((await readdir(dirname(layer?.path as string))).length).toBe(0)
  })
  expect(layersOf(timeline).some((one) => one.isResident)).toBe(false)
  await checkRound(timeline, 3)
})

test('files may go and come back under reads', async () => {
  await using world = await RemoteWorld.create()
  const server = await coldServer(world)
  const { timeline } = server
  let isEvicting = true
  let evictions = 0
  const evict = async () => {
    while (isEvicting) {
      for (const layer of layersOf(timeline)) {
        if (layer.isResident) evictions++
        await layer.evict()
      }
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  }
  const evicting = evict()
  const until = performance.now() + 600
  while (performance.now() < until || evictions <= 3) {
    await Promise.all([0, 1, 2, 3, 4].map((round) => checkRound(timeline, round)))
  }
  isEvicting = false
  await evicting
  expect(evictions).toBeGreaterThan(3)
  await server.restart()
  for (const round of [0, 2, LAST]) await checkRound(server.timeline, round)
})

test('a merge of layers that are in object storage only', async () => {
  await using world = await RemoteWorld.create()
  const server = await coldServer(world)
  expect(await server.timeline.compaction.compactL0()).toBe(true)
  for (const round of [0, 1, LAST]) await checkRound(server.timeline, round)
  await server.restart({ wipeDisk: true })
  for (const round of [0, 1, LAST]) await checkRound(server.timeline, round)
})
