/**
 * WAL of one timeline on disk. Bytes are queued in memory and written by one O_DSYNC `writev` at a
 * time, straight into the preallocated segment: while one is in flight, everything that arrives
 * gathers for the next, so many small appends share one sync without a timer, and a lone append
 * waits for nothing. (One synced write costs one hop to the thread pool, write and fdatasync two.)
 *
 * Any error from the disk while writing ends the process: see `fatalDiskError`. Segments have their
 * full size before they are written to, so a lack of space shows only when one is begun: then the
 * store tries again each second, with what is queued, and what is queued is bounded by the sessions.
 */
import { close, constants, open, writev } from 'node:fs'
import { rename } from 'node:fs/promises'
import { assert } from '#libs/errors.ts'
import { type Lsn, segmentNumber, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { fatalDiskError, removeFile, syncDirectory } from './files.ts'
import { listSegments, segmentPath } from './segment-files.ts'
import type { SpareSegments } from './spare-segments.ts'
import { WalTail } from './wal-tail.ts'

const MAX_WRITE_BYTES = 4 * 1024 * 1024
const OPEN_FLAGS = constants.O_WRONLY | constants.O_DSYNC
/** How long after a lack of space the next try is. */
const RETRY_MS = 1_000
const ZEROS = Buffer.alloc(1024 * 1024)

export interface WalStoreOptions {
  directory: string
  spares: SpareSegments
  /** End of the log; nothing lies behind it on disk. */
  endLsn: Lsn
  /** Called from the completion of each write. `syncUs` is how long the disk took. */
  onDurable: (epoch: number, durableLsn: Lsn, syncUs: number) => void
  /** A new segment cannot be had for lack of space; nothing is acknowledged until it can. */
  onFull: (error: Error) => void
}

export class WalStore {
  readonly tail: WalTail
  readonly #directory: string
  readonly #spares: SpareSegments
  readonly #onDurable: WalStoreOptions['onDurable']
  readonly #onFull: WalStoreOptions['onFull']
  #durable: Lsn
  #epoch = 0
  #file: { segment: number; descriptor: number } | null = null
  /** A write, or the change to another segment, is under way. */
  #busy = false
  #scheduled = false
  #waiters: { lsn: Lsn; resolve: () => void }[] = []
  #idle: (() => void) | null = null
  #closed = false
  #full = false

  constructor(options: WalStoreOptions) {
    this.#directory = options.directory
    this.#spares = options.spares
    this.#onDurable = options.onDurable
    this.#onFull = options.onFull
    this.#durable = options.endLsn
    this.tail = new WalTail(options.endLsn)
  }

  /** Bytes that are queued or in flight. */
  get backlogBytes(): number {
    return this.tail.endLsn - this.#durable
  }

  get durableLsn(): Lsn {
    return this.#durable
  }

  /** Queues bytes that continue the log; they are copied. The write starts when this turn ends. */
  write(epoch: number, lsn: Lsn, wal: Buffer): void {
    assert(lsn === this.tail.endLsn, 'a write continues the log')
    this.#epoch = epoch
    this.tail.append(wal)
    if (this.#busy || this.#scheduled) return
    this.#scheduled = true
    process.nextTick(() => {
      this.#scheduled = false
      this.#start()
    })
  }

  /** Resolves when everything queued so far is durable; null when it is already. */
  flush(): Promise<void> | null {
    const lsn = this.tail.endLsn
    if (this.#durable >= lsn) return null
    return new Promise((resolve) => {
      this.#waiters.push({ lsn, resolve })
      this.#start()
    })
  }

  /**
   * Drops all bytes from `lsn` on, durably. Later segments go first, then the tail is overwritten
   * with zeros, so a crash on the way leaves a shorter log and never a hole with WAL behind it.
   */
  async truncate(lsn: Lsn): Promise<void> {
    await this.#becomeIdle()
    const writtenEnd = this.#durable
    await this.#closeFile()
    const files = await listSegments(this.#directory)
    const keep = segmentOffset(lsn) === 0 ? segmentNumber(lsn) - 1 : segmentNumber(lsn)
    for (const file of files.toReversed()) {
      if (file.segment > keep) await removeFile(file.path)
    }
    await syncDirectory(this.#directory)
    const last = files.find((file) => file.segment === keep)
    if (last && segmentOffset(lsn) !== 0) {
      const end = Math.min(writtenEnd, (keep + 1) * WAL_SEGMENT_SIZE)
      if (end > lsn) await this.#zero(last.path, segmentOffset(lsn), end - lsn)
      if (!last.partial) {
        await rename(last.path, segmentPath(this.#directory, keep, true))
        await syncDirectory(this.#directory)
      }
    }
    this.tail.cut(lsn)
    this.#durable = lsn
    this.#busy = false
    this.#settle()
  }

  /** Makes what is queued durable and closes the file. False when there is no space to do so. */
  async close(): Promise<boolean> {
    if (this.#full) {
      this.#closed = true
      return false
    }
    await this.flush()
    await this.#becomeIdle()
    this.#closed = true
    await this.#closeFile()
    return true
  }

  #start(): void {
    if (this.#busy || this.#closed || this.#durable === this.tail.endLsn) return
    this.#busy = true
    const segment = segmentNumber(this.#durable)
    if (this.#file?.segment === segment) this.#writeSome(this.#file.descriptor, segment)
    else {
      this.#openSegment(segment).then(
        (descriptor) => this.#writeSome(descriptor, segment),
        (error: unknown) => this.#onOpenFailed(error as NodeJS.ErrnoException),
      )
    }
  }

  #onOpenFailed(error: NodeJS.ErrnoException): void {
    if (error.code !== 'ENOSPC' && error.code !== 'EDQUOT') {
      fatalDiskError(error, `opening a segment in ${this.#directory}`)
    }
    if (!this.#full) this.#onFull(error)
    this.#full = true
    setTimeout(() => {
      this.#busy = false
      this.#start()
    }, RETRY_MS)
  }

  #writeSome(descriptor: number, segment: number): void {
    this.#full = false
    const start = this.#durable
    const segmentEnd = (segment + 1) * WAL_SEGMENT_SIZE
    const end = Math.min(this.tail.endLsn, segmentEnd, start + MAX_WRITE_BYTES)
    const epoch = this.#epoch
    const startedAt = performance.now()
    const pieces = this.tail.pieces(start, end)
    writev(descriptor, pieces, segmentOffset(start), (error, written) => {
      if (error) fatalDiskError(error, `writing WAL in ${this.#directory}`)
      this.#durable = start + written
      this.tail.trim(this.#durable)
      const finished = this.#durable === segmentEnd
      const next = finished ? this.#finishSegment(segment) : null
      this.#onDurable(epoch, this.#durable, Math.round((performance.now() - startedAt) * 1000))
      if (next === null) this.#settle()
      else {
        next.then(
          () => this.#settle(),
          (failure: unknown) => fatalDiskError(failure, `finishing a segment`),
        )
      }
    })
  }

  /** A write is done: start the next, or tell those who wait. */
  #settle(): void {
    this.#busy = false
    const durable = this.#durable
    if (this.#waiters.length > 0) {
      const done = this.#waiters.filter((waiter) => waiter.lsn <= durable)
      this.#waiters = this.#waiters.filter((waiter) => waiter.lsn > durable)
      for (const waiter of done) waiter.resolve()
    }
    const idle = this.#idle
    if (idle) {
      this.#idle = null
      this.#busy = true
      idle()
    } else this.#start()
  }

  /** Resolves when nothing is in flight, and holds further writes off until `#settle`. */
  async #becomeIdle(): Promise<void> {
    if (!this.#busy) {
      this.#busy = true
      return
    }
    await new Promise<void>((resolve) => {
      this.#idle = resolve
    })
  }

  async #openSegment(segment: number): Promise<number> {
    await this.#closeFile()
    const path = segmentPath(this.#directory, segment, true)
    if (segmentOffset(this.#durable) === 0) {
      await this.#spares.take(path)
      await syncDirectory(this.#directory)
    }
    const descriptor = await new Promise<number>((resolve, reject) => {
      open(path, OPEN_FLAGS, (error, opened) => (error ? reject(error) : resolve(opened)))
    })
    this.#file = { segment, descriptor }
    return descriptor
  }

  async #finishSegment(segment: number): Promise<void> {
    await this.#closeFile()
    // Made durable together with the name of the next segment; boot accepts either name.
    await rename(
      segmentPath(this.#directory, segment, true),
      segmentPath(this.#directory, segment, false),
    )
  }

  #closeFile(): Promise<void> {
    const file = this.#file
    this.#file = null
    if (file === null) return Promise.resolve()
    return new Promise((resolve) => close(file.descriptor, () => resolve()))
  }

  #zero(path: string, offset: number, length: number): Promise<void> {
    return new Promise((resolve, reject) => {
      open(path, OPEN_FLAGS, (error, descriptor) => {
        if (error) {
          reject(error)
          return
        }
        const next = (at: number, left: number) => {
          if (left === 0) {
            close(descriptor, () => resolve())
            return
          }
          writev(descriptor, [ZEROS.subarray(0, left)], at, (failure, written) => {
            if (failure) fatalDiskError(failure, `clearing the end of ${path}`)
            next(at + written, left - written)
          })
        }
        next(offset, length)
      })
    })
  }
}
