/**
 * Random histories (puts, publishes, branches of branches, flushes, images, leases, garbage
 * collection, crashes, lost local disks) against a model that keeps everything in a Map: all reads
 * at all kinds of LSNs agree, and those of states that are not kept are refused.
 */
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import { timestampNow } from '#libs/pg/timestamp.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { HistoryModel, type ModelKey } from './testing/history-model.ts'
import { ScratchServer } from './testing/scratch-server.ts'
import { putToyCheckpoint } from './testing/toy-checkpoint.ts'

const START_LSN = 0x1000000
const RELS = 3
const BLOCKS = 12
const DAY_MS = 86_400_000

type Step =
  | { op: 'put'; count: number; seed: number; publish: boolean }
  | { op: 'branch'; back: number }
  | { op: 'use'; which: number }
  | {
      op: 'flush' | 'compact' | 'images' | 'bottom' | 'crash' | 'restart' | 'wipe' | 'settle'
      back?: number
    }
  | { op: 'check' | 'lease' | 'gc'; back: number }

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      op: fc.constant('put' as const),
      count: fc.integer({ min: 1, max: 120 }),
      seed: fc.integer(),
      publish: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('branch' as const), back: fc.nat(400) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('use' as const), which: fc.nat(7) }) },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constantFrom(
        'flush',
        'compact',
        'images',
        'bottom',
        'crash',
        'restart',
        'wipe',
        'settle',
      ),
    }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('check' as const), back: fc.nat(400) }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('gc' as const), back: fc.nat(200) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('lease' as const), back: fc.nat(400) }) },
) as fc.Arbitrary<Step>

/** A small generator of its own, so that one number replays a batch of puts. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

class Run {
  readonly server: ScratchServer
  readonly models = new Map<TimelineId, HistoryModel>()
  readonly ids: TimelineId[] = []
  readonly leases = new Map<TimelineId, number[]>()
  current = 0

  constructor(server: ScratchServer) {
    this.server = server
  }

  get id(): TimelineId {
    return this.ids[this.current] as TimelineId
  }

  get timeline(): Timeline {
    return this.server.tenant.timeline(this.id)
  }

  get model(): HistoryModel {
    return this.models.get(this.id) as HistoryModel
  }

  async bootstrap(): Promise<void> {
    const id = newTimelineId()
    const model = new HistoryModel(null, START_LSN)
    for (let rel = 0; rel < RELS; rel++) {
      for (let blk = 0; blk < BLOCKS; blk++) {
        const value = Buffer.alloc(PAGE_SIZE, rel * 16 + blk)
        const key = { cls: KeyClass.RelBlock, rel, blk }
        model.put({ key, lsn: START_LSN, kind: ValueKind.Image, value })
      }
      const size = Buffer.alloc(4)
      size.writeUInt32LE(BLOCKS)
      const key = { cls: KeyClass.RelSize, rel, blk: 0 }
      model.put({ key, lsn: START_LSN, kind: ValueKind.Image, value: size })
    }
    const facts = { startLsn: START_LSN, systemId: '42', pgVersion: 170011 }
    await this.server.tenant.createTimeline(id, facts, async (timeline) => {
      for (const version of model.versions) putInto(timeline, version)
      putToyCheckpoint(timeline, START_LSN, timestampNow())
    })
    this.ids.push(id)
    this.models.set(id, model)
  }

  put(count: number, seed: number, publish: boolean): void {
    const next = random(seed)
    const { model, timeline } = this
    let lsn = model.versions.reduce((max, version) => Math.max(max, version.lsn), model.lastLsn)
    for (let index = 0; index < count; index++) {
      if (next(3) > 0 || index === 0) lsn += 8 * (1 + next(20))
      const version = { lsn, ...this.#anyChange(next) }
      model.put(version)
      putInto(timeline, version)
    }
    if (!publish) return
    putToyCheckpoint(timeline, lsn, timestampNow())
    timeline.publish(lsn)
    model.lastLsn = lsn
  }

  #anyChange(next: (below: number) => number): {
    key: ModelKey
    kind: ValueKind
    value: Buffer
  } {
    const rel = next(RELS)
    const choice = next(20)
    const bytes = Buffer.alloc(1 + next(300), next(256))
    if (choice === 0) {
      const cls = next(2) ? KeyClass.AuxFile : KeyClass.TwoPhase
      const kind = next(3) ? ValueKind.Image : ValueKind.Tombstone
      const key = { cls, rel, blk: 0 }
      return { key, kind, value: kind === ValueKind.Image ? bytes : Buffer.alloc(0) }
    }
    // One hot block, so that the chain cap is at work.
    const blk = next(3) === 0 ? 0 : next(BLOCKS)
    const key = { cls: KeyClass.RelBlock, rel: blk === 0 ? 0 : rel, blk }
    if (choice === 1) return { key, kind: ValueKind.ZeroPage, value: Buffer.alloc(0) }
    if (choice === 2) return { key, kind: ValueKind.Image, value: Buffer.alloc(PAGE_SIZE, bytes) }
    if (choice === 3) return { key, kind: ValueKind.RecordInit, value: bytes }
    const kind = choice < 7 ? ValueKind.NativeOp : ValueKind.Record
    return { key, kind, value: bytes }
  }

  async branch(back: number): Promise<void> {
    if (this.ids.length >= 8) return
    const { model } = this
    const lsn = this.placeBack(back)
    const id = newTimelineId()
    await this.server.tenant.branchTimeline(id, { ancestorTimelineId: this.id, ancestorLsn: lsn })
    this.ids.push(id)
    this.models.set(id, new HistoryModel(model, lsn))
    this.current = this.ids.length - 1
  }

  /** A place so far back, or the oldest that is kept. */
  placeBack(back: number): number {
    const { model, timeline } = this
    const oldest = Math.max(model.parentLsn, timeline.gcCutoffLsn ?? 0)
    return Math.max(oldest, model.lastLsn - back * 8)
  }

  lease(back: number): void {
    const lsn = this.placeBack(back)
    this.timeline.retention.lease(lsn)
    this.leases.set(this.id, [...(this.leases.get(this.id) ?? []), lsn])
  }

  async collect(back: number): Promise<void> {
    const history = { pitrIntervalMs: DAY_MS, pitrBytes: back * 8 }
    await this.server.tenant.collectGarbage(this.id, history)
  }

  /** After a crash each timeline continues from what is durable, as WAL would be read again. */
  async comeBack(options: { clean?: boolean; wipeLocal?: boolean }): Promise<void> {
    await this.server.restart(options)
    for (const [id, model] of this.models) {
      const timeline = this.server.tenant.timeline(id)
      expect(timeline.lastRecordLsn).toBeLessThanOrEqual(model.lastLsn)
      if (options.clean) expect(timeline.lastRecordLsn).toBe(model.lastLsn)
      const again = model.versions.filter((version) => version.lsn > timeline.lastRecordLsn)
      for (const version of again) putInto(timeline, version)
      timeline.publish(model.lastLsn)
      // Other leases are for their holders to ask for again.
      const kept = (this.leases.get(id) ?? []).filter((lsn) => lsn < (timeline.gcCutoffLsn ?? 0))
      this.leases.set(id, kept)
    }
  }

  async check(back: number): Promise<void> {
    for (const [id, model] of this.models) {
      const timeline = this.server.tenant.timeline(id)
      const leased = this.leases.get(id) ?? []
      const past = Math.max(model.parentLsn, model.lastLsn - back * 8)
      for (const lsn of [model.lastLsn, past, ...leased]) {
        const kept = lsn >= (timeline.gcCutoffLsn ?? 0) || leased.includes(lsn)
        if (kept) await this.#checkAt(timeline, model, lsn)
        else await expect(timeline.scanBlobs(KeyClass.RelSize, lsn)).rejects.toThrow('is gone')
      }
    }
  }

  async #checkAt(timeline: Timeline, model: HistoryModel, lsn: number): Promise<void> {
    for (let rel = 0; rel < RELS; rel++) {
      const slot = timeline.slot(KeyClass.RelBlock, 0, 0, rel, 0)
      const pages = await timeline.readPages(slot, 0, BLOCKS + 1, lsn)
      for (let blk = 0; blk <= BLOCKS; blk++) {
        const expected = model.page({ cls: KeyClass.RelBlock, rel, blk }, lsn)
        const found = pages.subarray(blk * PAGE_SIZE, (blk + 1) * PAGE_SIZE)
        expect(found.equals(expected), `rel ${rel} blk ${blk} at ${lsn}`).toBe(true)
      }
    }
    for (const cls of [KeyClass.AuxFile, KeyClass.TwoPhase, KeyClass.RelSize]) {
      const scanned = await timeline.scanBlobs(cls, lsn)
      const expected = Array.from({ length: RELS }, (_, rel) => ({
        rel,
        value: model.blob({ cls, rel, blk: 0 }, lsn),
      })).filter(({ value }) => value !== null)
      expect(scanned.map(({ rel, value }) => ({ rel, value: Buffer.from(value) }))).toEqual(
        expected,
      )
    }
  }
}

function putInto(
  timeline: Timeline,
  { key, lsn, kind, value }: { key: ModelKey; lsn: number; kind: ValueKind; value: Buffer },
): void {
  const slot = timeline.slot(key.cls, 0, 0, key.rel, 0)
  const padded = Buffer.concat([Buffer.from('..'), value, Buffer.from('..')])
  timeline.put(slot, key.blk, lsn, kind, padded, 2, value.length)
}

async function play(run: Run, steps: readonly Step[]): Promise<void> {
  await run.bootstrap()
  for (const one of steps) {
    if (one.op === 'put') run.put(one.count, one.seed, one.publish)
    else if (one.op === 'branch') await run.branch(one.back)
    else if (one.op === 'use') run.current = one.which % run.ids.length
    else if (one.op === 'flush') await run.timeline.flush()
    else if (one.op === 'compact') await run.timeline.compaction.compactL0()
    else if (one.op === 'images') await run.timeline.createImageLayers()
    else if (one.op === 'bottom') await run.timeline.compaction.compactBottom()
    else if (one.op === 'crash') await run.comeBack({})
    else if (one.op === 'restart') await run.comeBack({ clean: true })
    else if (one.op === 'wipe') await run.comeBack({ wipeLocal: true })
    else if (one.op === 'settle') await run.timeline.settle()
    else if (one.op === 'lease') run.lease(one.back)
    else if (one.op === 'gc') await run.collect(one.back)
    else await run.check(one.back ?? 0)
  }
  await run.check(50)
  for (const id of run.ids) await run.server.tenant.timeline(id).createImageLayers()
  await run.check(0)
  await run.check(100)
  for (const id of run.ids) {
    const { retention } = run.server.tenant.timeline(id)
    run.current = run.ids.indexOf(id)
    await run.collect(0)
    expect(retention.cutoffLsn ?? run.model.parentLsn).toBeLessThanOrEqual(run.model.lastLsn)
  }
  await run.check(0)
  for (const id of run.ids) await run.server.tenant.timeline(id).compaction.compactBottom()
  await run.check(0)
  await run.comeBack({ wipeLocal: true })
  await run.check(0)
}

describe('storage against the model', () => {
  let server: ScratchServer | null = null
  afterEach(async () => {
    await server?.stop()
  })

  const shapes = {
    'usual limits': {},
    'tiny layers and eager merges': {
      rollSizeBytes: 32 * 1024,
      l0CompactCount: 2,
      l0CompactMax: 4,
      l1LayerBytes: 20_000,
      indexBytes: 2_000,
      openFiles: 2,
      chunkCacheBytes: 100_000,
      l0DelayMs: 0,
    },
    'tiny layers and eager images': {
      rollSizeBytes: 64 * 1024,
      imageAfterDeltas: 2,
      maxImageSets: 2,
      imageLayerBytes: 40_000,
      chunkCacheBytes: 100_000,
    },
    'history is rewritten at every chance': {
      rollSizeBytes: 32 * 1024,
      l0CompactCount: 2,
      l1LayerBytes: 20_000,
      imageAfterDeltas: 2,
      imageDeltaBytes: 2_000,
      bottomGainBytes: 500,
      imageLayerBytes: 4_000,
      l0DelayMs: 0,
    },
  }
  for (const [name, limits] of Object.entries(shapes)) {
    test(name, { timeout: 120_000 }, async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 25 }), async (steps) => {
          server = await ScratchServer.start(limits)
          try {
            await play(new Run(server), steps)
            expect(server.errors).toEqual([])
          } finally {
            await server.stop()
            server = null
          }
        }),
        { numRuns: Number(process.env.STORAGE_MODEL_RUNS ?? 25) },
      )
    })
  }
})
