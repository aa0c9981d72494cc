/**
 * The plans of the WAL store on a model disk that loses power, is killed or fails within any effect,
 * at boot too: what was acknowledged stays, and behind the end there is nothing.
 */
import { describe, expect, it } from 'vitest'
import { type Lsn, segmentNumber, segmentOffset } from '#libs/lsn.ts'
import { RecordScanner } from '#libs/wal/record-scanner.ts'
import { ModelDisk } from '../../test_runner/fixtures/model-disk.ts'
import { WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { Prng } from '../../test_runner/sim/prng.ts'
import { planBoot, scanResult, segmentsToScan, surveyFiles, tailToCheck } from './boot-plan.ts'
import {
  newestSegmentOf,
  segmentName,
  SegmentPlan,
  segmentStart,
  type StoreEffect,
} from './segment-plan.ts'

const READ_BYTES = 256 * 1024

class Broken extends Error {}

function must(condition: boolean, what: string): void {
  if (!condition) throw new Broken(what)
}

/** What a run met: a run that meets nothing proves nothing. */
const SEEN = [
  'boot',
  'power',
  'bootPower',
  'cut',
  'cutPower',
  'removal',
  'segment',
  'full',
] as const
type Seen = Record<(typeof SEEN)[number], number>

interface Mutation {
  /** Changes the effects of a plan. */
  boot?: (effects: StoreEffect[]) => StoreEffect[]
  run?: (effect: StoreEffect) => boolean
}

/** One timeline's life on a model disk: a log that grows, is cut, committed and removed. */
class Life {
  readonly random: Prng
  readonly disk: ModelDisk
  readonly startLsn: Lsn
  readonly seen: Seen
  readonly mutation: Mutation
  plan: SegmentPlan
  /** Intended bytes from `startLsn` on, and ends of whole records in them. */
  log: Buffer = Buffer.alloc(0)
  ends: Lsn[] = []
  /** Start of the record that ends there. */
  starts = new Map<Lsn, Lsn>()
  /** Bytes of records that are not appended yet. */
  rest: Buffer = Buffer.alloc(0)
  restEnds: Lsn[] = []
  commit: Lsn
  acked: Lsn

  constructor(seed: number, seen: Seen, mutation: Mutation) {
    this.random = new Prng(seed)
    this.seen = seen
    this.mutation = mutation
    const { random } = this
    const page = segmentStart(3) - random.int(0, 40) * 8192
    this.startLsn = page + random.pick([0, 48, 4096, 8184])
    const startLsn = this.startLsn
    this.commit = startLsn
    this.acked = startLsn
    this.disk = new ModelDisk(
      { startLsn, localStartLsn: startLsn, commitLsn: startLsn, dirtyTail: false },
      random,
    )
    this.plan = new SegmentPlan({
      startLsn,
      localStartLsn: startLsn,
      endLsn: startLsn,
      segments: null,
    })
  }

  get end(): Lsn {
    return this.startLsn + this.log.length
  }

  bytes(startLsn: Lsn, endLsn: Lsn): Buffer {
    return this.log.subarray(startLsn - this.startLsn, endLsn - this.startLsn)
  }

  append(): void {
    const { random } = this
    if (this.rest.length === 0) {
      const builder = new WalBuilder(this.end, { previousLsn: this.starts.get(this.end) ?? 0 })
      if (random.chance(0.02)) builder.appendSwitch()
      else for (let n = random.int(1, 6); n > 0; n -= 1) builder.appendNoop(random.int(30, 20_000))
      this.rest = builder.bytes()
      this.restEnds = builder.records.map((record) => record.endLsn)
      for (const record of builder.records) this.starts.set(record.endLsn, record.startLsn)
    }
    // Appends end anywhere, but as all positions in WAL on a multiple of 8.
    const words = this.rest.length / 8
    const length = random.chance(0.3) ? 8 * random.int(1, words) : this.rest.length
    this.log = Buffer.concat([this.log, this.rest.subarray(0, length)])
    this.rest = this.rest.subarray(length)
    this.ends.push(...this.restEnds.filter((lsn) => lsn <= this.end))
    this.restEnds = this.restEnds.filter((lsn) => lsn > this.end)
    this.plan.append(this.end)
  }

  /** Performs one effect; false when there is none. May crash in it. */
  step(crashChance: number): boolean {
    const effect = this.plan.next()
    if (effect === null) return false
    const isWrite = effect.kind === 'write'
    if (effect.kind === 'take-spare') {
      this.seen.segment += 1
      if (this.random.chance(0.2)) {
        this.seen.full += 1
        this.plan.blocked()
        return false
      }
    }
    const wal = isWrite ? this.bytes(effect.startLsn, effect.endLsn) : undefined
    if (this.mutation.run?.(effect) === false) {
      this.plan.done(wal?.length)
    } else if (this.random.chance(crashChance)) {
      this.disk.interrupt(effect, wal)
      this.restart()
    } else if (isWrite && wal !== undefined) {
      const written = this.random.chance(0.1) ? this.random.int(1, wal.length) : wal.length
      const endLsn = effect.startLsn + written
      this.disk.perform({ ...effect, endLsn }, wal.subarray(0, written))
      this.plan.done(written)
    } else {
      this.disk.perform(effect)
      this.plan.done()
    }
    this.acknowledge()
    return true
  }

  acknowledge(): void {
    for (const lsn of this.ends) {
      if (lsn <= this.plan.durableLsn && !this.plan.truncating)
        this.acked = Math.max(this.acked, lsn)
    }
  }

  cut(): void {
    const choices = [this.commit, ...this.ends].filter(
      (lsn) => lsn >= this.commit && lsn <= this.plan.durableLsn && lsn <= this.acked,
    )
    const lsn = this.random.pick(choices)
    const written = this.end
    this.plan.truncate(lsn)
    this.seen.cut += 1
    // A crash on the way may leave any of it.
    this.acked = lsn
    const before = this.seen.boot
    while (this.plan.truncating) {
      this.step(0.1)
      if (this.seen.boot !== before) {
        this.seen.cutPower += 1
        return
      }
    }
    must(lsn <= written, 'a cut does not lengthen')
    this.forget(lsn)
  }

  /** The log ends here now. */
  forget(lsn: Lsn): void {
    this.log = Buffer.from(this.log.subarray(0, lsn - this.startLsn))
    this.ends = this.ends.filter((end) => end <= lsn)
    this.rest = Buffer.alloc(0)
    this.restEnds = []
    this.acked = Math.min(this.acked, lsn)
  }

  /** The process ends and starts again, maybe with a loss of power, as often as it crashes at boot. */
  restart(clean = false): void {
    let afterCleanStop = clean
    for (;;) {
      this.seen.boot += 1
      if (!afterCleanStop && this.random.chance(0.6)) {
        this.seen.power += 1
        this.disk.crash()
      }
      if (this.boot(afterCleanStop)) break
      this.seen.bootPower += 1
      afterCleanStop = false
    }
    this.check()
  }

  boot(afterCleanStop: boolean): boolean {
    const { disk } = this
    const control = disk.control
    const survey = surveyFiles(disk.list(), control)
    const scanner = new RecordScanner(control.commitLsn)
    for (const file of segmentsToScan(survey, control)) {
      const endLsn = segmentStart(file.segment + 1)
      for (let going = true; going && scanner.lsn < endLsn; ) {
        const to = Math.min(endLsn, scanner.lsn + READ_BYTES)
        going = scanner.feed(disk.read(file.name, scanner.lsn, to))
      }
      if (scanner.lsn < endLsn) break
    }
    const scan = scanResult(scanner, survey.segments)
    const tail = tailToCheck(survey, control, scan, afterCleanStop)
    const tailIsZero = tail === null || disk.isZero(tail.name, tail.startLsn, tail.endLsn)
    const planned = planBoot({ survey, control, scan, tailIsZero, afterCleanStop })
    const effects = this.mutation.boot?.(planned.effects) ?? planned.effects
    for (const effect of effects) {
      if (this.random.chance(0.03)) {
        disk.interrupt(effect)
        return false
      }
      disk.perform(effect)
    }
    must(scan.flushLsn >= this.acked, 'what was acknowledged is there after a crash')
    must(scan.flushLsn <= this.end, 'nothing appears that was not written')
    this.plan = new SegmentPlan({
      startLsn: this.startLsn,
      localStartLsn: disk.control.localStartLsn,
      endLsn: scan.flushLsn,
      segments: planned.segments,
    })
    this.forget(scan.flushLsn)
    this.acked = scan.flushLsn
    return true
  }

  /** After a boot: the disk itself, not memory, has exactly the log. */
  check(): void {
    const { disk, startLsn } = this
    const names = disk.namesOnDisk()
    must(!disk.control.dirtyTail, 'the tail is clean after a boot')
    const last = newestSegmentOf(this.end, startLsn)
    const first = segmentNumber(disk.control.localStartLsn)
    const wanted = []
    for (let segment = first; segment <= last; segment += 1) {
      const partial = segmentStart(segment + 1) > this.end
      const name = segmentName(segment, partial)
      wanted.push(name)
      must(names.includes(name), `${name} is there`)
      const from = Math.max(segmentStart(segment), startLsn)
      const to = Math.min(segmentStart(segment + 1), this.end)
      must(disk.read(name, from, to, 'disk').equals(this.bytes(from, to)), 'the log is on disk')
      if (!partial) continue
      const zero = disk.isZero(name, to, segmentStart(segment + 1), 'disk')
      must(zero, 'behind the end there are zeros on disk')
    }
    must(names.length === wanted.length, `only ${wanted.join()} are there, not ${names.join()}`)
  }

  run(actions: number): void {
    const { random } = this
    for (let n = 0; n < actions; n += 1) {
      const what = random.next()
      if (what < 0.35) this.append()
      else if (what < 0.75) {
        if (!this.step(0.04)) this.plan.retry()
      } else if (what < 0.83) {
        const commit = random.pick([this.commit, ...this.ends.filter((lsn) => lsn <= this.acked)])
        this.commit = Math.max(this.commit, commit)
        this.disk.control = { ...this.disk.control, commitLsn: this.commit }
      } else if (what < 0.88) this.cut()
      else if (what < 0.92) {
        this.plan.remove(this.commit)
        if (segmentOffset(this.plan.localStartLsn) === 0) this.seen.removal += 1
      } else if (what < 0.96) this.restart()
      else {
        while (!this.plan.settled) {
          this.plan.retry()
          this.step(0)
        }
        this.restart(true)
      }
    }
    while (!this.plan.settled) {
      this.plan.retry()
      this.step(0)
    }
    this.acknowledge()
    this.restart()
  }
}

function runSeeds(seeds: number, mutation: Mutation = {}): Seen {
  const seen = Object.fromEntries(SEEN.map((name) => [name, 0])) as Seen
  for (let seed = 1; seed <= seeds; seed += 1) {
    try {
      new Life(seed, seen, mutation).run(80)
    } catch (error) {
      throw new Broken(`seed ${seed}: ${(error as Error).message}`, { cause: error })
    }
  }
  return seen
}

describe('plans of the WAL store', () => {
  it('keep what was acknowledged through crashes within any effect', () => {
    const seen = runSeeds(50)
    for (const name of SEEN) expect(seen[name], name).toBeGreaterThan(10)
  })

  it.each<[string, Mutation]>([
    ['bytes found are not written again', { boot: without('rewrite') }],
    ['the tail is not cleared at boot', { boot: without('zero') }],
    ['later segments stay at boot', { boot: without('unlink') }],
    ['the folder is not synced at boot', { boot: without('sync-folder') }],
    ['the folder is not synced before a segment is used', skipping('sync-folder')],
    ['a cut does not clear the tail', skipping('zero')],
    ['a cut is not marked', skipping('mark')],
  ])('are needed: %s', (_name, mutation) => {
    expect(() => runSeeds(400, mutation)).toThrow(/^seed/)
  })
})

function without(kind: StoreEffect['kind']): NonNullable<Mutation['boot']> {
  return (effects) => effects.filter((effect) => effect.kind !== kind)
}

function skipping(kind: StoreEffect['kind']): Mutation {
  return { run: (effect) => effect.kind !== kind }
}
