import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { parseTimelineId } from '#libs/ids.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { ChunkCache } from '../layers/chunk-cache.ts'
import { Layer, type LayerContext, type LayerEntry, layerKey } from '../layers/layer.ts'
import { LayerMap } from '../layers/layer-map.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { encodeSnapshot } from './manifest-encoder.ts'
import { decodeManifest, type Manifest } from './manifest.ts'
import { ManifestStore } from './manifest-store.ts'

const ORIGIN = parseTimelineId('11223344556677889900aabbccddeeff')
let scratch = ''
let store: LocalObjectStore
beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'manifest-'))
  store = new LocalObjectStore(scratch)
})
afterEach(async () => {
  await rm(scratch, { recursive: true, force: true })
})

function layer(number: number): LayerEntry {
  const startLsn = 1000 + number
  return {
    id: {
      kind: LayerKind.Delta,
      firstKey: MIN_KEY,
      lastKey: MAX_KEY,
      startLsn,
      endLsn: startLsn + 1,
      floorLsn: startLsn,
      generation: 3,
    },
    sizeBytes: number * 7,
    crc: (number * 2654435761) >>> 0,
    origin: number % 3 === 2 ? ORIGIN : null,
    ceilingLsn: number % 3 === 2 ? startLsn + 8 : null,
  }
}

function manifest(layers: LayerEntry[], diskConsistentLsn = 4096): Manifest {
  return {
    facts: {
      ancestorTimelineId: null,
      ancestorLsn: null,
      startLsn: 8,
      systemId: '7000000000000000001',
      pgVersion: 170011,
    },
    state: 'active',
    gcCutoffLsn: diskConsistentLsn > 4096 ? 4096 : null,
    leasedLsns: diskConsistentLsn > 4096 ? [2048, 3072] : [],
    diskConsistentLsn,
    prevRecordLsn: diskConsistentLsn - 56,
    layers,
  }
}

const open = (generation: number) => new ManifestStore(store, 'tl/manifests', generation)

test('what was written last is loaded, through snapshots and edits', async () => {
  const writer = open(3)
  expect(await writer.load()).toBeNull()
  let layers: LayerEntry[] = []
  for (let round = 0; round < 300; round++) {
    const before = layers
    const added = [layer(round)]
    layers = [...layers, ...added]
    if (round % 10 === 9) layers = layers.filter((_, index) => index % 5 !== 3)
    // What left comes back now and then, under the same name.
    if (round % 100 === 50) {
      added.push(layer(3))
      layers = [...layers.filter(({ id }) => id.startLsn !== 1003), layer(3)]
    }
    const kept = new Set(layers)
    const removed = before.filter((one) => !kept.has(one)).map(layerKey)
    const wanted = manifest(layers, 4096 + 8 * round)
    const edit = {
      added: added.filter((one) => kept.has(one) || one.id.startLsn === 1003),
      removed,
    }
    await writer.change(wanted, edit, () => layers)
    if (round % 37 === 0 || round % 100 === 50 || round === 299) {
      expect(await open(3).load()).toEqual(wanted)
    }
  }
  const { objects } = await store.list('tl/manifests')
  const kinds = await Promise.all(
    objects.map(async ({ name }) => decodeManifest(await store.get(name), name).kind),
  )
  const snapshots = kinds.filter((kind) => kind === 'snapshot').length
  expect(snapshots).toBeGreaterThan(1)
  expect(snapshots).toBeLessThan(20)
})

test('a snapshot in slices is of the moment when it was asked for', async () => {
  const context: LayerContext = {
    folder: '/nowhere',
    objectFolder: () => 'none',
    store,
    slots: new SlotTable(),
    cache: new ChunkCache(0),
  }
  const narrow = (number: number): LayerEntry => {
    const one = layer(number)
    return { ...one, id: { ...one.id, lastKey: { ...MIN_KEY, blk: number } } }
  }
  const layers = Array.from({ length: 10_000 }, (_, number) => narrow(number))
  const map = LayerMap.ofEntries(context, layers)
  const writer = open(3)
  const write = (lsn: number) =>
    writer.change(manifest([], lsn), { added: layers, removed: [] }, () => map.entries())
  const loaded = async () => {
    const found = await open(3).load()
    return [found?.diskConsistentLsn, found?.layers.map(({ id }) => id.startLsn)]
  }
  const first = write(4096)
  // Between the slices others go on, and layers come.
  await setImmediate()
  map.change([new Layer(narrow(20_000), context)], [])
  await setImmediate()
  expect((await store.list('tl/manifests')).objects).toEqual([])
  await first
  expect(await loaded()).toEqual([4096, layers.map(({ id }) => id.startLsn)])
  // One that leaves too early would have its row stand for another: nothing is written then.
  const second = write(8192)
  await setImmediate()
  map.change([], [map.find(narrow(9000)) as Layer])
  await expect(second).rejects.toThrow(/no layer leaves/)
  expect(await loaded()).toEqual([4096, layers.map(({ id }) => id.startLsn)])
  await write(8192)
  const kept = [...layers, layer(20_000)].filter(({ id }) => id.startLsn !== 10_000)
  expect(await loaded()).toEqual([8192, kept.map(({ id }) => id.startLsn)])
})

test('the highest generation not above our own counts', async () => {
  await open(2).write(manifest([layer(2)]))
  await open(5).write(manifest([layer(5)]))
  const third = open(3)
  expect(await third.load()).toEqual(manifest([layer(2)]))
  await third.write(manifest([layer(3)]))
  // The old generation goes on writing and is not heard.
  const second = open(2)
  await second.load()
  await second.write(manifest([layer(22)]))
  expect(await open(4).load()).toEqual(manifest([layer(3)]))
  expect(await open(9).load()).toEqual(manifest([layer(5)]))
  expect(await open(1).load()).toBeNull()
})

test('a taken name fences; our own retry does not', async () => {
  const [one, other] = [open(3), open(3)]
  await one.write(manifest([layer(1)]))
  await other.write(manifest([layer(1)]))
  await one.write(manifest([layer(1), layer(2)]))
  await expect(other.write(manifest([layer(4)]))).rejects.toMatchObject({ code: 'fenced' })
})

test('damage is named', async () => {
  const bytes = await encodeSnapshot(manifest([]), [layer(1)])
  expect(() => decodeManifest(bytes.subarray(0, 40), 'm-1')).toThrow(/manifest m-1 is damaged/)
  expect(() => decodeManifest(Buffer.alloc(0), 'm-1')).toThrow(/first line/)
  for (let at = 0; at < bytes.length; at += 13) {
    const bad = Buffer.from(bytes)
    bad.writeUInt8(bad.readUInt8(at) ^ 4, at)
    expect(() => decodeManifest(bad, 'm-1')).toThrow(/m-1/)
  }
  const newer = Buffer.from(bytes.toString().replace('manifest 3', 'manifest 4'))
  expect(() => decodeManifest(newer, 'm-1')).toThrow(/format 4/)
  await store.put('tl/manifests/m-00000001-00000001', bytes)
  await writeFile(join(scratch, 'tl/manifests/not-a-manifest'), 'x')
  expect((await open(1).load())?.layers).toHaveLength(1)
})
