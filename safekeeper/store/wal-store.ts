/**
 * WAL of one timeline on disk. Bytes are queued in memory and written by one O_DSYNC `writev` at a
 * time, straight into the preallocated segment: while one is in flight, everything that arrives
 * gathers for the next, so many small appends share one sync without a timer, and a lone append
 * waits for nothing. (One synced write costs one hop to the thread pool, write and fdatasync two.)
 *
 * What is done to files, and when, is decided by `SegmentPlan`; this performs it. Any error from the
 * disk while writing ends the process: see `fatalDiskError`. Segments have their full size before
 * they are written to, so a lack of space shows only when one is begun: then the store tries again
 * each second, with what is queued, and what is queued is bounded by the sessions.
 */
import { close, constants, open, writev, writevSync } from 'node:fs'
import { assert } from '#libs/errors.ts'
import { type Lsn, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { fatalDiskError } from './files.ts'
import type { SegmentDisk } from './segment-disk.ts'
import { SegmentPlan, type SegmentRange, type StoreEffect } from './segment-plan.ts'
import { WalTail } from './wal-tail.ts'
import type { WriteSlots } from './write-slots.ts'

const OPEN_FLAGS = constants.O_WRONLY | constants.O_DSYNC
/** How long after a lack of space the next try is. */
const RETRY_MS = 1_000

export interface WalStoreOptions {
  disk: SegmentDisk
  slots: WriteSlots
  startLsn: Lsn
  localStartLsn: Lsn
  /** End of the log; nothing lies behind it on disk. */
  endLsn: Lsn
  segments: SegmentRange | null
  /** Called from the completion of each write. `syncUs` is how long the disk took. */
  onDurable: (epoch: number, durableLsn: Lsn, syncUs: number) => void
  /** A new segment cannot be had for lack of space; nothing is acknowledged until it can. */
  onFull: (error: Error) => void
}

export class WalStore {
  readonly tail: WalTail
  readonly #disk: SegmentDisk
  readonly #slots: WriteSlots
  readonly #plan: SegmentPlan
  readonly #onDurable: WalStoreOptions['onDurable']
  readonly #onFull: WalStoreOptions['onFull']
  #epoch = 0
  /** Of the newest write, and what was told of it. */
  #writeEpoch = 0
  #announced: Lsn
  #file: { name: string; descriptor: number } | null = null
  #scheduled = false
  /** Waits for a slot. */
  #queued = false
  #flushed: { lsn: Lsn; resolve: () => void }[] = []
  /** Looked at whenever an effect is done or given up; those that are true are over. */
  #conditions: { holds: () => boolean; resolve: () => void }[] = []
  #lastSyncUs = 0
  #closed = false
  #full = false

  constructor(options: WalStoreOptions) {
    this.#disk = options.disk
    this.#slots = options.slots
    this.#plan = new SegmentPlan(options)
    this.#onDurable = options.onDurable
    this.#onFull = options.onFull
    this.tail = new WalTail(options.endLsn)
    this.#announced = options.endLsn
  }

  /** Bytes that are queued or in flight. */
  get backlogBytes(): number {
    return Math.max(0, this.tail.endLsn - this.#plan.durableLsn)
  }

  get durableLsn(): Lsn {
    return this.#plan.durableLsn
  }

  /** Where the WAL on this disk begins. */
  get localStartLsn(): Lsn {
    return this.#plan.localStartLsn
  }

  get segments(): SegmentRange | null {
    return this.#plan.segments
  }

  /** What the segments of this timeline take on disk. */
  get diskBytes(): number {
    const segments = this.#plan.segments
    return segments === null ? 0 : (segments.newest - segments.first + 1) * WAL_SEGMENT_SIZE
  }

  /** Segments that bytes up to `endLsn` need and that are not there yet. */
  missingSegments(endLsn: Lsn): number {
    return this.#plan.missingSegments(endLsn)
  }

  /** Queues bytes that continue the log; they are copied. The write starts when this turn ends. */
  write(epoch: number, lsn: Lsn, wal: Buffer): void {
    assert(lsn === this.tail.endLsn, 'a write continues the log')
    this.#epoch = epoch
    this.tail.append(wal)
    this.#plan.append(this.tail.endLsn)
    if (this.#scheduled || this.#plan.busy) return
    this.#scheduled = true
    process.nextTick(this.#onTurnEnd)
  }

  readonly #onTurnEnd = (): void => {
    this.#scheduled = false
    this.#start()
  }

  /** Resolves when everything queued so far is durable; null when it is already. */
  flush(): Promise<void> | null {
    const lsn = this.tail.endLsn
    if (this.#plan.durableLsn >= lsn) return null
    return new Promise((resolve) => {
      this.#flushed.push({ lsn, resolve })
      this.#start()
    })
  }

  /** Drops all bytes from `lsn` on, durably. */
  async truncate(lsn: Lsn): Promise<void> {
    this.tail.cut(lsn)
    this.#plan.truncate(lsn)
    this.#announced = Math.min(this.#announced, lsn)
    await this.#until(() => !this.#plan.truncating)
    // Whoever waited for what is gone waits for nothing.
    this.#resolveFlushed(Infinity)
  }

  /** Removes whole segments below `lsn`; the caller knows that nobody needs them. */
  async remove(lsn: Lsn): Promise<void> {
    this.#plan.remove(lsn)
    await this.#until(() => !this.#plan.removing)
  }

  /** Closes the file if nothing is being written: an idle timeline holds none. */
  closeIdleFile(): void {
    if (!this.#plan.busy && !this.#queued) void this.#closeFile()
  }

  /** Makes what is queued durable and closes the file. False when there is no space to do so. */
  async close(): Promise<boolean> {
    const plan = this.#plan
    await this.#until(() => plan.settled || (plan.isBlocked && !plan.busy))
    this.#closed = true
    await this.#closeFile()
    return plan.settled
  }

  async #until(holds: () => boolean): Promise<void> {
    if (holds()) return
    await new Promise<void>((resolve) => {
      this.#conditions.push({ holds, resolve })
      this.#start()
    })
  }

  #start(): void {
    if (this.#queued || this.#closed || this.#plan.busy) return
    this.#queued = true
    this.#slots.acquire(this.#onSlot)
  }

  /** What to do is asked only now, so that all that has gathered goes into one write. */
  readonly #onSlot = (): void => {
    this.#queued = false
    const effect = this.#closed ? null : this.#plan.next()
    if (effect?.kind === 'write') {
      this.#writeTo(effect)
      return
    }
    this.#slots.release()
    if (effect === null) this.#tell()
    else {
      this.#perform(effect).then(
        () => this.#done(),
        (error: unknown) => this.#failed(effect, error as NodeJS.ErrnoException),
      )
    }
  }

  async #perform(effect: Exclude<StoreEffect, { kind: 'write' }>): Promise<void> {
    // Names change: the open file may be another one under the same name afterwards.
    await this.#closeFile()
    await this.#disk.perform(effect)
  }

  #done(): void {
    this.#plan.done()
    this.#full = false
    if (this.#plan.durableLsn > this.#announced) this.#announce(this.#lastSyncUs)
    this.#tell()
    this.#start()
  }

  #failed(effect: StoreEffect, error: NodeJS.ErrnoException): void {
    if (error.code !== 'ENOSPC' && error.code !== 'EDQUOT') {
      fatalDiskError(error, `the step ${effect.kind} in ${this.#disk.directory}`)
    }
    if (!this.#full) this.#onFull(error)
    this.#full = true
    this.#plan.blocked()
    this.#tell()
    this.#start()
    setTimeout(() => {
      this.#plan.retry()
      this.#start()
    }, RETRY_MS)
  }

  #writeTo(effect: Extract<StoreEffect, { kind: 'write' }>): void {
    const file = this.#file
    if (file?.name === effect.name) {
      this.#write(file.descriptor, effect.startLsn, effect.endLsn)
      return
    }
    void this.#closeFile()
    open(this.#disk.path(effect.name), OPEN_FLAGS, (error, descriptor) => {
      if (error) fatalDiskError(error, `opening ${effect.name} in ${this.#disk.directory}`)
      this.#file = { name: effect.name, descriptor }
      this.#write(descriptor, effect.startLsn, effect.endLsn)
    })
  }

  #write(descriptor: number, startLsn: Lsn, endLsn: Lsn): void {
    this.#writeEpoch = this.#epoch
    const startedAt = performance.now()
    const pieces = this.tail.pieces(startLsn, endLsn)
    const offset = segmentOffset(startLsn)
    if (this.#slots.inlineRule.applies(this, endLsn - startLsn, startedAt)) {
      this.#written(startedAt, this.#writeNow(descriptor, pieces, offset))
      return
    }
    writev(descriptor, pieces, offset, (error, written) => {
      if (error) fatalDiskError(error, `writing WAL in ${this.#disk.directory}`)
      this.#written(startedAt, written)
    })
  }

  #writeNow(descriptor: number, pieces: Buffer[], offset: number): number {
    try {
      return writevSync(descriptor, pieces, offset)
    } catch (error) {
      fatalDiskError(error as Error, `writing WAL in ${this.#disk.directory}`)
    }
  }

  #written(startedAt: number, bytes: number): void {
    this.#slots.release()
    this.#plan.done(bytes)
    this.tail.trim(this.#plan.durableLsn)
    this.#lastSyncUs = Math.round((performance.now() - startedAt) * 1000)
    this.#slots.inlineRule.took(this.#lastSyncUs)
    this.#announce(this.#lastSyncUs)
    this.#tell()
    this.#start()
  }

  #announce(syncUs: number): void {
    this.#announced = this.#plan.durableLsn
    this.#onDurable(this.#writeEpoch, this.#announced, syncUs)
  }

  /** An effect is over: tells those who wait for what it brought. */
  #tell(): void {
    if (this.#flushed.length > 0) this.#resolveFlushed(this.#plan.durableLsn)
    if (this.#conditions.length === 0) return
    const over = this.#conditions.filter((condition) => condition.holds())
    this.#conditions = this.#conditions.filter((condition) => !over.includes(condition))
    for (const condition of over) condition.resolve()
  }

  #resolveFlushed(lsn: Lsn): void {
    const done = this.#flushed.filter((waiter) => waiter.lsn <= lsn)
    this.#flushed = this.#flushed.filter((waiter) => waiter.lsn > lsn)
    for (const waiter of done) waiter.resolve()
  }

  #closeFile(): Promise<void> {
    const file = this.#file
    this.#file = null
    if (file === null) return Promise.resolve()
    return new Promise((resolve) => close(file.descriptor, () => resolve()))
  }
}
