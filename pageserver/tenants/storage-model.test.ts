/**
 * Random histories of everything that storage does (puts, relations cut and dropped, branches of branches, flushes, merges,
 * images, bottom-most compaction, collection with moving cutoffs, leases, eviction, detach,
 * archiving, deletion, crashes that lose files, restarts, lost disks, shards, splits of them) against a model that
 * keeps everything in a Map: all reads at all retained LSNs agree, and those of states that are not
 * kept are refused. Where there are shards, and in one shape without, the flush thread writes the layers.
 *
 * ZENITH_MODEL_RUNS=2000 for a long run; ZENITH_MODEL_SEED=n (and ZENITH_MODEL_PATH) replay what a
 * failure names.
 */
import fc from 'fast-check'
import { afterAll, describe, test } from 'vitest'
import { FlushThread } from '../threads/flush-thread.ts'
import type { StorageLimits } from '../timeline/storage-context.ts'
import { type Loss, START_LSN, StorageRun } from './testing/storage-run.ts'

type Step =
  | { op: 'put'; count: number; seed: number; publish: boolean }
  | { op: 'crash'; loss: Loss; seed: number }
  | { op: 'together'; back: number; seed: number }
  | { op: 'flush' | 'evict' | 'split'; seed: number }
  | { op: 'away' | 'branch' | 'lease' | 'gc' | 'check'; back: number }
  | { op: 'use' | 'unarchive'; which: number }
  | {
      op:
        | 'compact'
        | 'images'
        | 'bottom'
        | 'settle'
        | 'restart'
        | 'detach'
        | 'archive'
        | 'delete'
        | 'sweep'
    }

const seed = fc.nat()
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      op: fc.constant('put' as const),
      count: fc.nat(120),
      seed,
      publish: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('branch' as const), back: fc.nat(400) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('use' as const), which: fc.nat(7) }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constantFrom('flush', 'evict'), seed }) },
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constantFrom('compact', 'images', 'bottom', 'settle', 'restart', 'sweep'),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ op: fc.constantFrom('detach', 'archive', 'delete') }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('split' as const), seed }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('unarchive' as const), which: fc.nat(7) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('crash' as const),
      loss: fc.constantFrom('nothing', 'some', 'zeros', 'cut', 'all'),
      seed,
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('check' as const), back: fc.nat(400) }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('gc' as const), back: fc.nat(200) }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constantFrom('lease', 'away'), back: fc.nat(400) }) },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant('together' as const), back: fc.nat(200), seed }),
  },
) as fc.Arbitrary<Step>

async function perform(run: StorageRun, one: Step): Promise<void> {
  switch (one.op) {
    case 'put':
      return run.put(one.count, one.seed, one.publish)
    case 'use':
      return run.use(one.which)
    case 'lease':
      return run.lease(one.back)
    case 'away':
    case 'branch':
    case 'check':
      return await run[one.op](one.back)
    case 'gc':
      return await run.collect(one.back)
    case 'crash':
      await run.crash(one.loss, one.seed)
      return
    case 'together':
      return await run.together(one.back, one.seed)
    case 'flush':
    case 'evict':
    case 'split':
      return await run[one.op](one.seed)
    case 'unarchive':
      return await run.unarchive(one.which)
    case 'archive':
    case 'bottom':
    case 'compact':
    case 'delete':
    case 'detach':
    case 'images':
    case 'restart':
    case 'settle':
    case 'sweep':
      return await run[one.op]()
  }
}

describe('storage against the model', () => {
  const merges = {
    rollSizeBytes: 32 * 1024,
    l0CompactCount: 2,
    l0CompactMax: 4,
    l1LayerBytes: 20_000,
    indexBytes: 2_000,
    openFiles: 2,
    chunkCacheBytes: 100_000,
    l0DelayMs: 0,
    bottomGainBytes: 1,
  }
  const images = {
    rollSizeBytes: 64 * 1024,
    imageAfterDeltas: 2,
    maxImageSets: 2,
    imageLayerBytes: 40_000,
    chunkCacheBytes: 100_000,
    bottomGainBytes: 1,
  }
  const rewrites = {
    rollSizeBytes: 32 * 1024,
    l0CompactCount: 2,
    l1LayerBytes: 20_000,
    imageAfterDeltas: 2,
    imageDeltaBytes: 2_000,
    maxImageSets: 4,
    bottomGainBytes: 500,
    imageLayerBytes: 4_000,
    l0DelayMs: 0,
  }
  const flushThread = new FlushThread()
  afterAll(() => flushThread.close())
  /** What the shapes above do not let happen side by side. */
  const anyLimits = fc.record({
    rollSizeBytes: fc.integer({ min: 16 * 1024, max: 256 * 1024 }),
    l0CompactCount: fc.integer({ min: 2, max: 6 }),
    l0CompactMax: fc.integer({ min: 6, max: 12 }),
    l1LayerBytes: fc.integer({ min: 3_000, max: 200_000 }),
    imageDeltaBytes: fc.integer({ min: 500, max: 100_000 }),
    imageDepth: fc.constantFrom(0.5, 1, 2.5, 8),
    imageAfterDeltas: fc.integer({ min: 1, max: 20 }),
    maxImageSets: fc.integer({ min: 1, max: 8 }),
    imageLayerBytes: fc.integer({ min: 3_000, max: 200_000 }),
    bottomGainBytes: fc.constantFrom(1, 500, 5_000),
    idleBytes: fc.constantFrom(1_000, 100_000),
    indexBytes: fc.constantFrom(2_000, 1_000_000),
    openFiles: fc.constantFrom(2, 100),
    chunkCacheBytes: fc.constantFrom(100_000, 10_000_000),
    l0DelayMs: fc.constant(0),
  })
  const anyShards = fc.option(
    fc.record({
      count: fc.integer({ min: 2, max: 4 }),
      stripeBlocks: fc.integer({ min: 1, max: 5 }),
    }),
    { freq: 2 },
  )
  const limitsOf = (limits: Partial<StorageLimits>) => fc.constant(limits)
  const noShards = fc.constant(null)
  const shapes = {
    'usual limits': { limits: limitsOf({}), shards: noShards },
    'tiny layers and eager merges': { limits: limitsOf(merges), shards: noShards },
    'tiny layers and eager images': { limits: limitsOf(images), shards: noShards },
    'history is rewritten at every chance': { limits: limitsOf(rewrites), shards: noShards },
    'any limits': { limits: anyLimits, shards: anyShards },
    'two shards': { limits: limitsOf(images), shards: fc.constant({ count: 2, stripeBlocks: 3 }) },
    'three shards': {
      limits: limitsOf(merges),
      shards: fc.constant({ count: 3, stripeBlocks: 2 }),
    },
  }
  // Where 32 bits end, and where a double still counts by ones.
  const anyStart = fc.constantFrom(START_LSN, 2 ** 32 - 4096, 2 ** 48)
  const { ZENITH_MODEL_RUNS, ZENITH_MODEL_SEED, ZENITH_MODEL_PATH } = process.env
  const numRuns = Number(ZENITH_MODEL_RUNS ?? 6)
  for (const [name, shape] of Object.entries(shapes)) {
    test(name, { timeout: 120_000 + numRuns * 10_000 }, async () => {
      const steps = fc.array(step, { minLength: 3, maxLength: 25 })
      await fc.assert(
        fc.asyncProperty(steps, shape.limits, shape.shards, anyStart, async (steps, ...world) => {
          const [limits, shards, startLsn] = world
          const files = name === 'tiny layers and eager images' || shards ? flushThread : null
          await using run = await StorageRun.begin(limits, shards, files, startLsn)
          for (const [index, one] of steps.entries()) {
            await perform(run, one)
            await run.sample(index)
          }
          await run.finish(ZENITH_MODEL_RUNS === undefined ? undefined : 30)
        }),
        {
          numRuns,
          // Before the test's own time ends, so that what was found is told.
          interruptAfterTimeLimit: 100_000 + numRuns * 8_000,
          markInterruptAsFailure: true,
          ...(ZENITH_MODEL_SEED === undefined ? {} : { seed: Number(ZENITH_MODEL_SEED) }),
          ...(ZENITH_MODEL_PATH === undefined ? {} : { path: ZENITH_MODEL_PATH }),
        },
      )
    })
  }
})
