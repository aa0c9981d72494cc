/**
 * Damage of every kind: layer objects, manifests and local state with bits flipped, ends cut off and
 * fields replaced. It is detected and named, and never served; no error is untyped, and no length
 * that was not checked is believed.
 */
import { mkdtemp, readFile, rm, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { newTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { decodeFooter, FOOTER_SIZE, unpack } from '../layers/layer-format.ts'
import { sectionColumns } from '../layers/index-section.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { LocalState, sealed } from '../remote/local-state.ts'
import { decodeManifest, manifestOf } from '../remote/manifest.ts'
import { ManifestText } from '../remote/manifest-encoder.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { ScratchServer } from './testing/scratch-server.ts'

const START_LSN = 0x2000000
const BLOCKS = 24
const RUNS = Number(process.env['ZENITH_MODEL_RUNS'] ?? 40)

type Damage =
  | { how: 'flip'; at: number; bit: number }
  | { how: 'cut' | 'longer'; at: number }
  | { how: 'zeros'; at: number; length: number }

/** `at` is a share of the length. */
const damage: fc.Arbitrary<Damage> = fc.oneof(
  fc.record({ how: fc.constant('flip' as const), at: share(), bit: fc.nat(7) }),
  fc.record({ how: fc.constantFrom('cut' as const, 'longer' as const), at: share() }),
  fc.record({ how: fc.constant('zeros' as const), at: share(), length: fc.nat(5000) }),
)

/** Ends of files are where footers and indexes are. */
function share(): fc.Arbitrary<number> {
  const inside = fc.double({ min: 0, max: 0.9999, noNaN: true })
  return fc.oneof(inside, fc.double({ min: 0.99, max: 0.99999, noNaN: true }))
}

function damaged(good: Buffer, what: Damage): Buffer {
  const at = Math.floor(what.at * good.length)
  const bytes = Buffer.from(good)
  if (what.how === 'flip') bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << what.bit), at)
  if (what.how === 'zeros') bytes.fill(0, at, Math.min(at + what.length, bytes.length))
  if (what.how === 'cut') return bytes.subarray(0, at)
  if (what.how === 'longer') return Buffer.concat([bytes, Buffer.alloc(1 + (at % 100), 7)])
  return bytes
}

/** Pages of two kinds, those that compress and those that do not, in deltas and images. */
async function fill(server: ScratchServer): Promise<Timeline> {
  const facts = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  const timeline = await server.tenant.createTimeline(newTimelineId(), facts, async (one) => {
    const size = Buffer.alloc(4)
    size.writeUInt32LE(BLOCKS)
    const sizeSlot = one.slot(KeyClass.RelSize, 1, 2, 3, 0)
    one.put(sizeSlot, 0, START_LSN, ValueKind.Image, size, 0, 4)
    for (let blk = 0; blk < BLOCKS; blk++) {
      const page = Buffer.alloc(PAGE_SIZE, blk)
      let state = blk + 1
      for (let at = 0; blk % 2 === 0 && at < PAGE_SIZE; at += 4) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0
        page.writeUInt32LE(state, at)
      }
      const slot = one.slot(KeyClass.RelBlock, 1, 2, 3, 0)
      one.put(slot, blk, START_LSN, ValueKind.Image, page, 0, PAGE_SIZE)
    }
  })
  for (let round = 1; round <= 2; round++) {
    const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
    for (let blk = 0; blk < BLOCKS; blk++) {
      const record = Buffer.from(`round ${round} block ${blk}`)
      const lsn = START_LSN + round * 800
      timeline.put(slot, blk, lsn, ValueKind.Record, record, 0, record.length)
    }
    timeline.publish(START_LSN + round * 800)
    if (round === 1) await timeline.createImageLayers()
    else await timeline.flush()
  }
  return timeline
}

async function readAll(timeline: Timeline): Promise<Buffer> {
  const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
  const lsns = [START_LSN, START_LSN + 800, START_LSN + 1600]
  const pages = await Promise.all(lsns.map((lsn) => timeline.readPages(slot, 0, BLOCKS, lsn)))
  return Buffer.concat(pages)
}

describe('damage', () => {
  test('of a layer in every copy is named or does not matter', { timeout: 120_000 }, async () => {
    await using server = await ScratchServer.start({ imageDepth: 1000, imageAfterDeltas: 1000 })
    const { timelineId } = await fill(server)
    const expected = await readAll(server.tenant.timeline(timelineId))
    const names = server.tenant
      .timeline(timelineId)
      .layers.newestFirst.map((layer) => layer.objectName)
    let found = 0
    await fc.assert(
      fc.asyncProperty(fc.nat(names.length - 1), damage, async (which, what) => {
        const name = names[which] as string
        const path = join(server.folder, 'objects', name)
        const good = await readFile(path)
        await unlink(path)
        await writeFile(path, damaged(good, what))
        try {
          await server.restart({ wipeLocal: true })
          const read = await readAll(server.tenant.timeline(timelineId)).catch((error: unknown) => {
            expect(error).toBeInstanceOf(ZenithError)
            expect(String(error)).toContain(name.slice(name.lastIndexOf('/') + 1))
            return null
          })
          if (read === null) found++
          else expect(read.equals(expected)).toBe(true)
        } finally {
          await unlink(path)
          await writeFile(path, good)
        }
      }),
      { numRuns: RUNS },
    )
    expect(found).toBeGreaterThan(0)
    await server.restart({ wipeLocal: true })
    expect((await readAll(server.tenant.timeline(timelineId))).equals(expected)).toBe(true)
  })

  test('of a footer makes it none, and lengths are checked before they are believed', () => {
    const footer = fc.uint8Array({ minLength: FOOTER_SIZE, maxLength: FOOTER_SIZE })
    fc.assert(fc.property(footer, (bytes) => decodeFooter(Buffer.from(bytes)) === null))
    const counts = { groups: 0xffffffff, rows: 0xffffffff, chunks: 0xffffffff }
    expect(() => sectionColumns(LayerKind.Delta, counts, Buffer.alloc(64))).toThrow(
      'a layer index has',
    )
    const codec = fc.nat(3) as fc.Arbitrary<0 | 1>
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), codec, fc.nat(100_000), (bytes, one, raw) => {
        expectTyped(() => unpack(Buffer.from(bytes), one, raw))
      }),
    )
  })

  test('of a manifest is named, whatever bit or byte it is', async () => {
    await using server = await ScratchServer.start()
    const { timelineId } = await fill(server)
    const folder = `tenants/${server.tenantId}/timelines/${timelineId}/manifests`
    const { objects } = await server.store.list(folder)
    const [first] = objects
    const name = first?.name as string
    const good = await server.store.get(name)
    fc.assert(
      fc.property(damage, (what) => {
        const bytes = damaged(good, what)
        if (bytes.equals(good)) return
        expect(() => decodeManifest(bytes, name)).toThrow(ZenithError)
        expect(() => decodeManifest(bytes, name)).toThrow(name)
      }),
      { numRuns: 500 },
    )
    // Well-formed, with a right checksum, and nonsense.
    const body = decodeManifest(good, name) as unknown as Record<string, unknown>
    const nonsense = fc.constantFrom(null, -1, 1e300, '', 'zz', '0/1', [], {}, ['x'], true)
    fc.assert(
      fc.property(fc.constantFrom(...Object.keys(body)), nonsense, (field, value) => {
        const text = `${JSON.stringify({ ...body, [field]: value })}\n`
        const { bytes } = new ManifestText(text.length).add(text)
        expectTyped(() => manifestOf(decodeManifest(bytes, name), null))
      }),
      { numRuns: 300 },
    )
  })

  test('of local state begins it anew, and never deletes what it did not name', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'local-state-'))
    const path = join(folder, 'local-state.mdb')
    const told: string[] = []
    const log = { warn: (text: string) => told.push(text) } as unknown as Logger
    const names = Array.from({ length: 20 }, (_, number) => `tenants/a/layer-${number}`)
    const fillState = async () => {
      const state = LocalState.open(folder, log)
      for (const [number, name] of names.entries()) {
        const entry = { tenantId: 'a', generation: 1, name }
        await state.deletions.put(number, sealed(number, entry))
      }
      await state.close()
      expect(told).toEqual([])
    }
    const reopened = async () => {
      const state = LocalState.open(folder, log)
      const found = [...state.deletions.getRange()].map(({ value }) => value.name)
      await state.close()
      return found
    }
    try {
      await fillState()
      expect(await reopened()).toEqual(names)
      // Damage that LMDB itself does not see: the bytes of a value.
      const bytes = await readFile(path)
      const text = 'layer-7"'
      for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + 1)) {
        bytes.write('8', at + 6)
      }
      await writeFile(path, bytes)
      expect(await reopened()).toEqual([])
      expect(told.join()).toMatch(/begun anew: entry 7 of the deletions has a wrong checksum/)
      told.length = 0
      await fillState()
      // The last start died of what it read.
      await writeFile(join(folder, 'local-state.trial'), '')
      expect(await reopened()).toEqual([])
      expect(told.join()).toContain('the last start ended while it was read')
      expect(await reopened()).toEqual([])
      expect(told).toHaveLength(1)
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })
})

function expectTyped(work: () => unknown): void {
  try {
    work()
  } catch (error) {
    expect(error).toBeInstanceOf(ZenithError)
  }
}
