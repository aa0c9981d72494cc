import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { parseTimelineId } from '#libs/ids.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { type LayerEntry, layerKey } from '../layers/layer.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { decodeManifest, encodeManifest, type Manifest, snapshotBody } from './manifest.ts'
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
  const bytes = encodeManifest(snapshotBody(manifest([]), [layer(1)]))
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
