/**
 * A crash at every effect: each operation of storage is cut off at each write to and deletion from
 * object storage, before it is done and after it, and at each step in between; a failure that is
 * no crash at the same places is tried again. What was there before is there afterwards, and the
 * operation can be done again. A short run takes a few of these places.
 */
import { describe, expect, test } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import type { StoreCall } from './testing/faulty-store.ts'
import { type Interrupted, type Loss, StorageRun } from './testing/storage-run.ts'

const LIMITS = {
  rollSizeBytes: 1 << 20,
  l0CompactCount: 1000,
  imageDepth: 1000,
  imageAfterDeltas: 1000,
  imageLayerBytes: 200_000,
  l1LayerBytes: 40_000,
  bottomGainBytes: 1,
}
const EFFECTS: ReadonlySet<StoreCall> = new Set(['put', 'putFile', 'delete', 'deleteAll'])
const LOSSES: readonly Loss[] = ['nothing', 'all', 'cut', 'zeros', 'some']
/** Histories played side by side: most of their time is waiting for disks and retries. */
const AT_ONCE = 8
/** Cases of each operation in a short run; ZENITH_MODEL_RUNS asks for all, several hundred. */
const FEW = 5

type Way = 'crash before' | 'crash after' | 'fail before' | 'fail after'
const WAYS: readonly Way[] = ['crash before', 'crash after', 'fail before', 'fail after']

interface Operation {
  name: string
  prepare?: (run: StorageRun) => Promise<unknown>
  act: (run: StorageRun) => Promise<unknown>
  interrupts?: Interrupted
}

/** Timelines: 0 with several layers, 1 and 2 branch from it at different places. */
async function history(): Promise<StorageRun> {
  const run = await StorageRun.begin(LIMITS)
  for (const seed of [1, 2, 3]) {
    run.put(60, seed, true)
    await run.flush(0)
  }
  await run.branch(500)
  run.put(30, 4, true)
  await run.flush(0)
  run.use(0)
  await run.branch(60)
  run.put(30, 5, true)
  return run
}

async function onRoot(run: StorageRun): Promise<void> {
  run.use(0)
  run.put(40, 6, true)
  await run.flush(0)
}

const OPERATIONS: readonly Operation[] = [
  { name: 'flush', act: (run) => run.flush(0) },
  { name: 'branch', act: (run) => run.branch(10) },
  { name: 'merge of L0', prepare: onRoot, act: (run) => run.compact() },
  { name: 'images', prepare: onRoot, act: (run) => run.images() },
  {
    name: 'bottom-most compaction',
    prepare: async (run) => {
      await onRoot(run)
      await run.images()
      run.put(40, 7, true)
      await run.images()
      run.put(40, 8, true)
      await run.images()
      await run.collect(100)
    },
    act: (run) => run.bottom(),
  },
  {
    name: 'collection',
    prepare: async (run) => {
      await onRoot(run)
      await run.images()
      run.put(40, 7, true)
      await run.images()
      run.lease(100)
    },
    act: (run) => run.collect(0),
  },
  { name: 'detach', act: (run) => run.detach() },
  { name: 'archive', act: (run) => run.archive(), interrupts: 'archive' },
  {
    name: 'unarchive',
    prepare: (run) => run.archive(),
    act: (run) => run.unarchive(0),
    interrupts: 'unarchive',
  },
  { name: 'delete', act: (run) => run.delete(), interrupts: 'delete' },
  {
    name: 'deletion of objects',
    prepare: async (run) => {
      await onRoot(run)
      await run.images()
      await run.collect(0)
      run.use(1)
      await run.delete()
    },
    act: (run) => run.sweep(),
  },
]

/** Calls `at` at each effect with its number, before and after it, and at each step. */
function watch(run: StorageRun, at: (effect: number, when: 'before' | 'after') => void): void {
  let count = 0
  const numbers = new Map<string, number[]>()
  run.server.faults.before = (call, name) => {
    if (!EFFECTS.has(call)) return
    const number = ++count
    numbers.set(name, [...(numbers.get(name) ?? []), number])
    at(number, 'before')
  }
  run.server.faults.after = (call, name) => {
    if (!EFFECTS.has(call)) return
    at(numbers.get(name)?.at(-1) as number, 'after')
  }
  run.server.onStep = () => at(++count, 'before')
}

async function countEffects({ prepare, act }: Operation): Promise<number> {
  await using run = await history()
  await prepare?.(run)
  let effects = 0
  watch(run, (effect) => {
    effects = effect
  })
  await act(run)
  return effects
}

/** Nothing gets through any more. The code says that there is no use in trying again. */
function dead(): never {
  throw new ZenithError('internal', 'the process has died')
}

async function crashAt(operation: Operation, effect: number, way: Way): Promise<void> {
  await using run = await history()
  await operation.prepare?.(run)
  const when = way === 'crash before' ? 'before' : 'after'
  const { faults } = run.server
  watch(run, (number, now) => {
    if (number < effect || (number === effect && now !== when)) return
    faults.before = dead
    faults.after = dead
    run.server.onStep = dead
    dead()
  })
  const wasDone = await operation.act(run).then(
    () => true,
    () => false,
  )
  run.server.onStep = () => undefined
  const loss = LOSSES[effect % LOSSES.length] as Loss
  const isDone = await run.crash(loss, effect, wasDone ? undefined : operation.interrupts)
  run.server.errors.length = 0
  await run.checkAll(2)
  if (!wasDone && !isDone) await operation.act(run)
  await expectWhole(run)
}

async function failAt(operation: Operation, effect: number, way: Way): Promise<void> {
  await using run = await history()
  await operation.prepare?.(run)
  const when = way === 'fail before' ? 'before' : 'after'
  let failed = false
  watch(run, (number, now) => {
    if (number !== effect || now !== when || failed) return
    failed = true
    throw new Error(`effect ${effect} failed`)
  })
  // A step is no call to object storage: its failure is that of the operation, which is repeated.
  await operation.act(run).catch(() => operation.act(run))
  await run.checkAll(2)
  run.server.errors.length = 0
  await expectWhole(run)
}

async function expectWhole(run: StorageRun): Promise<void> {
  await run.checkAll(2)
  await run.sweep()
  await run.crash('all', 0)
  await run.checkAll(2)
  expect(run.server.errors).toEqual([])
}

/** Some of the cases, from the first to the last, with another way to fail each time. */
function chosen<T>(all: readonly T[]): T[] {
  if (process.env['ZENITH_MODEL_RUNS'] !== undefined || all.length <= FEW) return [...all]
  const step = (all.length - 1) / (FEW - 1)
  return Array.from({ length: FEW }, (_, index) => all[Math.round(index * step)] as T)
}

describe('cut off at each effect', () => {
  for (const operation of OPERATIONS) {
    test(operation.name, { timeout: 300_000 }, async () => {
      const effects = await countEffects(operation)
      expect(effects).toBeGreaterThan(0)
      const all = Array.from({ length: effects }, (_, index) =>
        WAYS.map((way) => ({ effect: index + 1, way })),
      ).flat()
      const cases = chosen(all)
      const failures: string[] = []
      const work = async () => {
        for (let one = cases.shift(); one; one = cases.shift()) {
          const { effect, way } = one
          const cut = way.startsWith('crash') ? crashAt : failAt
          await cut(operation, effect, way).catch((error: unknown) => {
            failures.push(
              `${way} effect ${effect}: ${String(error instanceof Error ? error.stack : error)}`,
            )
          })
        }
      }
      await Promise.all(Array.from({ length: AT_ONCE }, work))
      expect(failures.join('\n\n')).toBe('')
    })
  }
})
