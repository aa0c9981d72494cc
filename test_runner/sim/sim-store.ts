/**
 * The disk side of one simulated safekeeper: the real plans of segment files and of the boot, their
 * effects on a SimDisk, and the control file as its real writer replaces it.
 */
import { type Lsn, segmentNumber, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { RecordScanner } from '#libs/wal/record-scanner.ts'
import {
  type ControlState,
  decodeControlState,
  encodeControlState,
} from '../../safekeeper/control-state.ts'
import {
  planBoot,
  type ScanResult,
  segmentsToScan,
  type Survey,
  surveyFiles,
  tailToCheck,
} from '../../safekeeper/store/boot-plan.ts'
import {
  SegmentPlan,
  segmentName,
  type SegmentRange,
  segmentStart,
  type StoreEffect,
} from '../../safekeeper/store/segment-plan.ts'
import { leadHeaders } from '../../safekeeper/store/wal-lead.ts'
import type { Coverage } from './coverage.ts'
import type { SimDisk } from './disk.ts'
import type { FaultKind } from './faults.ts'
import type { Host } from './host.ts'
import type { Mutation } from './mutations.ts'
import { Violation } from './oracle.ts'
import type { Prng } from './prng.ts'

const CONTROL = 'safekeeper.control'
const TEMPORARY = 'safekeeper.control.tmp'
const RESTORE_SUFFIX = '.restore'
const RETRY_MS = 1000
const SCAN_BYTES = 32_768

export interface SimStoreOptions {
  host: Host
  disk: SimDisk
  random: Prng
  coverage: Coverage
  maxDelayMs: () => number
  /** A sync reports an error. */
  eio: FaultKind
  eioChance: number
  /** The process ends, or the machine, before an effect of what is being done. */
  crashes: (doing?: string) => boolean
  mutation: Mutation | null
  onDurable: (epoch: number, writeLsn: Lsn) => void
  /** The process must end: the disk failed. */
  onFatal: () => void
}

export class SimStore {
  readonly #options: SimStoreOptions
  readonly #disk: SimDisk
  #plan: SegmentPlan | null = null
  /** Bytes that are not durable yet. */
  #tail: { lsn: Lsn; bytes: Buffer }[] = []
  #epoch = 0
  #written: Lsn
  /** What the oracle sees while the log is being read. */
  #durableBefore: Lsn
  #flushed: { lsn: Lsn; done: () => void }[] = []
  #announced: Lsn = 0
  #conditions: { holds: () => boolean; done: () => void }[] = []
  #controls: { control: ControlState; done: () => void }[] = []
  #newestControl: ControlState
  #mark: Pick<ControlState, 'dirtyTail' | 'localStartLsn'> | null = null
  /** What the control file on the medium says. */
  durableControl: ControlState

  constructor(options: SimStoreOptions, control: ControlState, durableLsn: Lsn) {
    this.#options = options
    this.#disk = options.disk
    this.#written = durableLsn
    this.#durableBefore = durableLsn
    this.durableControl = control
    this.#newestControl = control
  }

  /** Makes a timeline on an empty disk, at once and durably, with WAL from `localStartLsn` on. */
  static install(disk: SimDisk, control: ControlState, wal: Buffer): void {
    const first = control.localStartLsn
    const end = first + wal.length
    for (let lsn = first; lsn < end; ) {
      const segment = segmentNumber(lsn)
      const next = Math.min(end, segmentStart(segment + 1))
      const name = segmentName(segment, next < segmentStart(segment + 1))
      disk.create(name)
      disk.resize(name, WAL_SEGMENT_SIZE)
      disk.write(name, segmentOffset(lsn), wal.subarray(lsn - first, next - first))
      disk.sync(name)
      lsn = next
    }
    disk.create(CONTROL)
    disk.write(CONTROL, 0, encodeControlState(control))
    disk.sync(CONTROL)
    disk.syncFolder()
  }

  get writtenEnd(): Lsn {
    return this.#written
  }

  /** End of what is on the medium. */
  get durableEnd(): Lsn {
    return this.#plan?.durableLsn ?? this.#durableBefore
  }

  get localStartLsn(): Lsn {
    return this.#plan?.localStartLsn ?? this.durableControl.localStartLsn
  }

  /** Reads the control file and the log, makes the disk agree with what was read, then calls back. */
  boot(done: (control: ControlState, flushLsn: Lsn) => void): void {
    const disk = this.#disk
    if (disk.has(TEMPORARY)) disk.unlink(TEMPORARY)
    const control = decodeControlState(disk.read(CONTROL, 0, disk.size(CONTROL)))
    this.durableControl = control
    this.#newestControl = control
    if (control.eviction !== null) {
      this.#removeLeftovers()
      this.#begin(control.localStartLsn, control.eviction.flushLsn, null)
      done(control, control.eviction.flushLsn)
      return
    }
    const files = disk.names().map((name) => ({
      name,
      sizeBytes: disk.size(name),
      inode: disk.inode(name),
    }))
    const survey = surveyFiles(files, control)
    const scan = this.#scan(survey, control)
    const tail = tailToCheck(survey, control, scan, false)
    const tailIsZero =
      tail === null ||
      disk.isZero(tail.name, segmentOffset(tail.startLsn), offsetOfEnd(tail.endLsn))
    const boot = planBoot({ survey, control, scan, tailIsZero, afterCleanStop: false })
    if (!tailIsZero) this.#options.coverage.count('bytes behind the log')
    if (control.dirtyTail) this.#options.coverage.count('boots with a dirty tail')
    const effects = boot.effects.filter(
      (effect) => effect.kind !== 'rewrite' || this.#options.mutation !== 'no-rewrite-at-boot',
    )
    const next = (): void => {
      const effect = effects.shift()
      if (effect !== undefined) {
        this.#perform(effect, next)
        return
      }
      this.#removeLeftovers()
      this.#begin(control.localStartLsn, scan.flushLsn, boot.segments)
      done(control, scan.flushLsn)
    }
    next()
  }

  #begin(localStartLsn: Lsn, endLsn: Lsn, segments: SegmentRange | null): void {
    const { startLsn } = this.durableControl
    this.#plan = new SegmentPlan({ startLsn, localStartLsn, endLsn, segments })
    this.#written = endLsn
  }

  /** What a restore that a crash interrupted has left. */
  #removeLeftovers(): void {
    for (const name of this.#disk.names()) {
      if (name.endsWith(RESTORE_SUFFIX)) this.#disk.unlink(name)
    }
  }

  /** Every file of WAL goes; the control file says already that the timeline is evicted. */
  leave(done: () => void): void {
    const plan = this.#plan as SegmentPlan
    this.#until(
      () => plan.settled,
      () => {
        const files = this.#disk.names().filter((name) => !name.startsWith(CONTROL))
        const unlinks = files.map((name): StoreEffect => ({ kind: 'unlink', name }))
        const localStartLsn = this.#written
        const mark: StoreEffect = { kind: 'mark', dirtyTail: false, localStartLsn }
        this.#performAll('leaving', [...unlinks, { kind: 'sync-folder' }, mark], () => {
          this.#begin(localStartLsn, localStartLsn, null)
          done()
        })
      },
    )
  }

  /** Puts the newest segment back, which has `tail` up to the end of the log; `done` gets a problem. */
  restore(tail: Buffer | null, done: (problem: string | null) => void): void {
    const flushLsn = this.#written
    const segment = segmentNumber(flushLsn)
    const localStartLsn = Math.max(this.durableControl.startLsn, segmentStart(segment))
    const to = segmentName(segment, true)
    const from = to + RESTORE_SUFFIX
    const mark: StoreEffect = { kind: 'mark', dirtyTail: false, localStartLsn }
    const settle: StoreEffect[] = [{ kind: 'sync-folder' }, mark]
    const back = (): void => {
      this.#begin(localStartLsn, flushLsn, tail && { first: segment, newest: segment })
      done(null)
    }
    if (tail === null) {
      this.#performAll('returning', settle, back)
      return
    }
    if (this.#disk.full) {
      done('no space on this disk')
      return
    }
    if (this.#options.crashes('returning')) return
    this.#disk.create(from)
    this.#disk.write(from, segmentOffset(flushLsn - tail.length), tail)
    this.#disk.resize(from, WAL_SEGMENT_SIZE)
    this.#sync(from, () => {
      this.#performAll('returning', [{ kind: 'rename', from, to }, ...settle], back)
    })
  }

  #performAll(doing: string, effects: StoreEffect[], done: () => void): void {
    const effect = effects.shift()
    if (this.#options.crashes(doing)) return
    if (effect === undefined) done()
    else this.#perform(effect, () => this.#performAll(doing, effects, done))
  }

  #scan(survey: Survey, control: ControlState): ScanResult {
    const scanner = new RecordScanner(control.commitLsn)
    for (const file of segmentsToScan(survey, control)) {
      const end = segmentStart(file.segment + 1)
      while (scanner.lsn < end) {
        const length = Math.min(SCAN_BYTES, end - scanner.lsn)
        if (!scanner.feed(this.#disk.read(file.name, segmentOffset(scanner.lsn), length))) break
      }
      if (scanner.lsn < end) break
    }
    return { flushLsn: scanner.recordEndLsn, stoppedLsn: scanner.lsn }
  }

  write(epoch: number, lsn: Lsn, bytes: Buffer): void {
    this.#epoch = epoch
    this.#tail.push({ lsn, bytes })
    this.#written = lsn + bytes.length
    this.#plan?.append(this.#written)
    this.#start()
  }

  /** Calls back when everything written so far is durable; false when it is already. */
  flush(done: () => void): boolean {
    if (this.durableEnd >= this.#written) return false
    this.#flushed.push({ lsn: this.#written, done })
    this.#start()
    return true
  }

  truncate(lsn: Lsn, done: () => void): void {
    const plan = this.#plan as SegmentPlan
    plan.truncate(lsn)
    this.#tail = []
    this.#written = lsn
    this.#until(
      () => !plan.truncating,
      () => {
        this.#resolveFlushed(Number.POSITIVE_INFINITY)
        done()
      },
    )
  }

  /** Removes whole segments below `lsn`. */
  remove(lsn: Lsn, done: () => void): void {
    const plan = this.#plan as SegmentPlan
    plan.remove(lsn)
    this.#until(() => !plan.removing, done)
  }

  /** Stores the control file; writes happen in the order of the calls. */
  persist(control: ControlState, done: () => void): void {
    const state = { ...control, ...this.#mark }
    this.#newestControl = state
    this.#controls.push({ control: state, done })
    if (this.#controls.length === 1) this.#writeControl()
  }

  /** Bytes as a program reads them. */
  read(from: Lsn, to: Lsn): Buffer {
    return this.#gather(from, to, (name, offset, length) => this.#disk.read(name, offset, length))
  }

  /** Bytes on the medium. */
  readDurable(from: Lsn, to: Lsn): Buffer {
    return this.#gather(from, to, (name, offset, length) =>
      this.#disk.readDurable(name, offset, length),
    )
  }

  /** Whether anything lies behind the end of the log. */
  hasTail(lsn: Lsn): boolean {
    const names = this.#disk.names()
    const last = segmentName(segmentNumber(lsn), true)
    if (names.includes(last) && !this.#disk.isZero(last, segmentOffset(lsn), WAL_SEGMENT_SIZE)) {
      return true
    }
    return names.some((name) => name.length >= 24 && name !== last && name > last)
  }

  #gather(
    from: Lsn,
    to: Lsn,
    read: (name: string, offset: number, length: number) => Buffer | null,
  ): Buffer {
    const pieces: Buffer[] = []
    for (let lsn = from; lsn < to; ) {
      const segment = segmentNumber(lsn)
      const end = Math.min(to, segmentStart(segment + 1))
      const full = segmentName(segment, false)
      const partial = segmentName(segment, true)
      const name = this.#disk.has(full) ? full : partial
      const piece = this.#disk.has(name) ? read(name, segmentOffset(lsn), end - lsn) : null
      pieces.push(piece ?? Buffer.alloc(end - lsn))
      lsn = end
    }
    return pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)
  }

  #until(holds: () => boolean, done: () => void): void {
    if (holds()) {
      done()
      return
    }
    this.#conditions.push({ holds, done })
    this.#start()
  }

  #start(): void {
    const plan = this.#plan
    const effect = plan?.next() ?? null
    if (plan === null || effect === null) {
      if (plan?.busy === false) this.#tell()
      return
    }
    if (this.#options.crashes()) return
    if (effect.kind === 'write') {
      this.#write(plan, effect)
      return
    }
    if (effect.kind === 'take-spare' && this.#disk.full) {
      this.#options.coverage.count('no space for a segment')
      plan.blocked()
      this.#later(() => this.#start())
      this.#options.host.after(RETRY_MS, () => {
        plan.retry()
        this.#start()
      })
      return
    }
    this.#perform(effect, () => {
      plan.done()
      // The name of a full segment may be what its last record waited for.
      if (plan.durableLsn > this.#announced) this.#announce(this.#epoch)
      this.#tell()
      this.#start()
    })
  }

  #write(plan: SegmentPlan, effect: Extract<StoreEffect, { kind: 'write' }>): void {
    const { startLsn, endLsn, name } = effect
    const epoch = this.#epoch
    const bytes = this.#bytes(startLsn, endLsn)
    this.#disk.write(name, segmentOffset(startLsn), bytes)
    this.#later(() => {
      if (!this.#synced(name)) return
      plan.done(bytes.length)
      while ((this.#tail[0]?.lsn ?? endLsn) + (this.#tail[0]?.bytes.length ?? 1) <= endLsn) {
        this.#tail.shift()
      }
      this.#announce(epoch)
      this.#tell()
      this.#start()
    })
  }

  #announce(epoch: number): void {
    this.#announced = this.#plan?.durableLsn ?? 0
    this.#options.onDurable(epoch, this.#announced)
  }

  #bytes(from: Lsn, to: Lsn): Buffer {
    const pieces: Buffer[] = []
    for (const { lsn, bytes } of this.#tail) {
      const start = Math.max(from, lsn)
      const end = Math.min(to, lsn + bytes.length)
      if (start < end) pieces.push(bytes.subarray(start - lsn, end - lsn))
    }
    return pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)
  }

  /** False when the process ends over it. */
  #synced(name: string): boolean {
    if (!this.#options.eio.fires(this.#options.eioChance)) {
      this.#disk.sync(name)
      return true
    }
    this.#disk.failSync(name)
    if (this.#options.mutation === 'ack-after-failed-sync') return true
    this.#options.onFatal()
    return false
  }

  #perform(effect: StoreEffect, done: () => void): void {
    const disk = this.#disk
    this.#options.coverage.count(`store: ${effect.kind}`)
    switch (effect.kind) {
      case 'take-spare':
        disk.create(effect.name)
        disk.resize(effect.name, WAL_SEGMENT_SIZE)
        disk.sync(effect.name)
        this.#later(done)
        break
      case 'lead':
        for (const { pageLsn, bytes } of leadHeaders(this.durableControl)) {
          disk.write(effect.name, segmentOffset(pageLsn), bytes)
        }
        this.#sync(effect.name, done)
        break
      case 'zero':
        disk.zero(effect.name, segmentOffset(effect.startLsn), offsetOfEnd(effect.endLsn))
        disk.resize(effect.name, Math.max(disk.size(effect.name), offsetOfEnd(effect.endLsn)))
        this.#sync(effect.name, done)
        break
      case 'rewrite':
        disk.rewrite(effect.name, segmentOffset(effect.startLsn), offsetOfEnd(effect.endLsn))
        this.#sync(effect.name, done)
        break
      case 'rename':
        disk.rename(effect.from, effect.to)
        this.#later(done)
        break
      case 'unlink':
        if (disk.has(effect.name)) disk.unlink(effect.name)
        this.#later(done)
        break
      case 'sync-folder':
        this.#later(() => {
          disk.syncFolder()
          done()
        })
        break
      case 'mark': {
        const { dirtyTail, localStartLsn } = effect
        this.#mark = { dirtyTail, localStartLsn }
        this.persist(this.#newestControl, done)
        break
      }
      case 'write':
        throw new Error('a boot writes no WAL')
    }
  }

  #sync(name: string, done: () => void): void {
    this.#later(() => {
      if (this.#synced(name)) done()
    })
  }

  #tell(): void {
    if (this.#flushed.length > 0) this.#resolveFlushed(this.durableEnd)
    if (this.#conditions.length === 0) return
    const over = this.#conditions.filter(({ holds }) => holds())
    this.#conditions = this.#conditions.filter((condition) => !over.includes(condition))
    for (const { done } of over) done()
  }

  #resolveFlushed(lsn: Lsn): void {
    const waiting = this.#flushed
    this.#flushed = waiting.filter((waiter) => waiter.lsn > lsn)
    for (const waiter of waiting) if (waiter.lsn <= lsn) waiter.done()
  }

  #writeControl(): void {
    const next = this.#controls[0]
    if (next === undefined) return
    const disk = this.#disk
    if (disk.full) {
      this.#options.coverage.count('no space for a control file')
      this.#options.host.after(RETRY_MS, () => this.#writeControl())
      return
    }
    if (this.#options.crashes()) return
    disk.create(TEMPORARY)
    disk.write(TEMPORARY, 0, encodeControlState(next.control))
    this.#later(() => {
      if (!this.#synced(TEMPORARY)) return
      disk.rename(TEMPORARY, CONTROL)
      this.#later(() => {
        disk.syncFolder()
        this.#controls.shift()
        this.durableControl = next.control
        if (next.control.commitLsn > this.durableEnd) {
          throw new Violation('I9', 'a commit position is stored before the WAL below it')
        }
        this.#writeControl()
        next.done()
      })
    })
  }

  #later(work: () => void): void {
    const { host, random, maxDelayMs } = this.#options
    host.after(0.02 + random.next() * maxDelayMs(), work)
  }
}

/** Where a position lies in the segment that it ends, as an offset: the size of it at its end. */
function offsetOfEnd(lsn: Lsn): number {
  return segmentOffset(lsn - 1) + 1
}
