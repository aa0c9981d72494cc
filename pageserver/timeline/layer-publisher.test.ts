import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import type { LayerEntry } from '../layers/layer.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { decodeManifest, manifestOf } from '../remote/manifest.ts'
import { checkRound, lsnOf, putRound, RemoteWorld } from '../tenants/testing/remote-world.ts'

const LAYERS = 20_000
const ORIGIN = newTimelineId()

/** As if taken over from an ancestor; nobody reads their keys. */
function adopted(number: number): LayerEntry {
  const prefix = { cls: 0, spc: 1, db: 2, rel: 77, fork: 0 }
  return {
    id: {
      kind: LayerKind.Delta,
      firstKey: { ...prefix, blk: number },
      lastKey: { ...prefix, blk: number + 7 },
      startLsn: 100,
      endLsn: 200,
      floorLsn: 100,
      generation: 1,
      serial: number,
    },
    sizeBytes: 1000,
    crc: number,
    origin: ORIGIN,
    ceilingLsn: 150,
  }
}

const many = Array.from({ length: LAYERS }, (_, number) => adopted(number))

test('a manifest of many layers is written while flushes go on, and is whole or not there', async () => {
  await using world = await RemoteWorld.create()
  const server = await world.server('one')
  let timeline = await server.create()
  let round = 0
  const flushing: Promise<void>[] = []
  const flushOne = () => {
    putRound(timeline, ++round)
    flushing.push(timeline.flush().catch(() => undefined))
  }
  const borrowed = () => timeline.layers.count - timeline.layers.l0.length
  // Dies between two slices: all that comes after fails, as it would not come.
  const dying = timeline.change({ adopt: many })
  dying.catch(() => undefined)
  for (let step = 0; step < 3; step++) await setImmediate()
  world.store.before = (call) => {
    if (call.startsWith('put')) throw new Error('the process is dead')
  }
  flushOne()
  await server.restart({ wipeDisk: true })
  world.store.heal()
  await expect(dying).rejects.toThrow()
  timeline = server.timeline
  expect([borrowed(), timeline.lastRecordLsn]).toEqual([0, lsnOf(0)])
  await checkRound(timeline, 0)
  // The same, alive. What comes to be on disk meanwhile is for the next manifest.
  round = 0
  let snapshot = ''
  world.store.before = (call, name) => {
    if (call === 'put' && name.includes('/manifests/')) snapshot ||= name
  }
  const living = timeline.change({ adopt: many })
  let isDone = false
  const done = living.finally(() => {
    isDone = true
  })
  let turns = 0
  while (!isDone) {
    if (turns++ % 4 === 0 && round < 10) flushOne()
    await setImmediate()
  }
  await done
  expect(turns).toBeGreaterThan(LAYERS / 4096)
  expect(borrowed()).toBe(LAYERS)
  const written = manifestOf(decodeManifest(await world.store.get(snapshot), snapshot), null)
  const own = written.layers.filter(({ origin }) => origin === null)
  expect(written.layers.length - own.length).toBe(LAYERS)
  expect(own.every(({ id }) => id.endLsn <= written.diskConsistentLsn + 1)).toBe(true)
  // The next process finds all that this one said was there.
  const said = timeline.remoteConsistentLsn
  await server.restart({ wipeDisk: true })
  timeline = server.timeline
  expect(borrowed()).toBe(LAYERS)
  expect(timeline.lastRecordLsn).toBeGreaterThanOrEqual(said)
  await checkRound(timeline, (timeline.lastRecordLsn - lsnOf(0)) / 800)
  await Promise.all(flushing)
})
