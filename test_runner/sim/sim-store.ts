/**
 * The disk side of one simulated safekeeper: WAL and control file on a SimDisk, in the steps of the
 * real store. What is written gathers in memory while a synced write is in flight.
 */
import type { Lsn } from '#libs/lsn.ts'
import { RecordScanner } from '#libs/wal/record-scanner.ts'
import {
  type ControlState,
  decodeControlState,
  encodeControlState,
} from '../../safekeeper/control-state.ts'
import type { SimDisk } from './disk.ts'
import type { FaultKind } from './faults.ts'
import type { Host } from './host.ts'
import type { Mutation } from './mutations.ts'
import { LOG_BYTES, Violation } from './oracle.ts'
import type { Prng } from './prng.ts'

const WAL = 'wal'
const COPY = 'wal.copy'
const CONTROL = 'safekeeper.control'
const TEMPORARY = 'safekeeper.control.tmp'
const RETRY_MS = 1000

export interface SimStoreOptions {
  host: Host
  disk: SimDisk
  random: Prng
  startLsn: Lsn
  maxDelayMs: () => number
  /** A sync or a write reports an error. */
  eio: FaultKind
  eioChance: number
  mutation: Mutation | null
  onDurable: (epoch: number, writeLsn: Lsn) => void
  /** The process must end: the disk failed. */
  onFatal: () => void
}

interface Queued {
  lsn: Lsn
  bytes: Buffer
}

export class SimStore {
  readonly #options: SimStoreOptions
  readonly #disk: SimDisk
  #queue: Queued[] = []
  #epoch = 0
  #writing = false
  #written: Lsn
  /** End of what is on the medium. */
  durableEnd: Lsn
  #waiters: { lsn: Lsn; done: () => void }[] = []
  #idle: (() => void) | null = null
  #controls: { control: ControlState; done: () => void }[] = []
  /** What the control file on the medium says. */
  durableControl: ControlState

  constructor(options: SimStoreOptions, control: ControlState) {
    this.#options = options
    this.#disk = options.disk
    this.#written = options.startLsn
    this.durableEnd = options.startLsn
    this.durableControl = control
  }

  /** Makes a new timeline on an empty disk, at once. */
  static format(disk: SimDisk, control: ControlState, wal: Buffer): void {
    disk.create(WAL)
    disk.resize(WAL, LOG_BYTES)
    disk.write(WAL, 0, wal)
    disk.sync(WAL)
    disk.create(CONTROL)
    disk.write(CONTROL, 0, encodeControlState(control))
    disk.sync(CONTROL)
    disk.syncFolder()
  }

  get writtenEnd(): Lsn {
    return this.#written
  }

  /** Reads the control file and the log, makes the disk agree with what was read, then calls back. */
  boot(done: (control: ControlState, flushLsn: Lsn) => void): void {
    const disk = this.#disk
    if (disk.has(TEMPORARY)) disk.unlink(TEMPORARY)
    if (disk.has(COPY)) disk.unlink(COPY)
    const control = decodeControlState(disk.read(CONTROL, 0, disk.size(CONTROL)))
    const scanner = new RecordScanner(control.commitLsn)
    const first = control.commitLsn - this.#options.startLsn
    for (let at = first; at < LOG_BYTES && scanner.damage === null; ) {
      const length = Math.min(32_768, LOG_BYTES - at)
      scanner.feed(disk.read(WAL, at, length))
      at += length
    }
    const flushLsn = scanner.recordEndLsn
    const end = flushLsn - this.#options.startLsn
    this.durableControl = control
    const finish = () => {
      this.#written = flushLsn
      this.durableEnd = flushLsn
      done(control, flushLsn)
    }
    if (this.#options.mutation === 'no-copy-forward') {
      this.#clear(WAL, end)
      this.#later(finish)
      return
    }
    disk.copy(WAL, COPY)
    this.#clear(COPY, end)
    this.#later(() => {
      disk.sync(COPY)
      disk.rename(COPY, WAL)
      this.#later(() => {
        disk.syncFolder()
        finish()
      })
    })
  }

  write(epoch: number, lsn: Lsn, bytes: Buffer): void {
    this.#epoch = epoch
    this.#queue.push({ lsn, bytes })
    this.#written = lsn + bytes.length
    this.#start()
  }

  /** Calls back when everything written so far is durable; false when it is already. */
  flush(done: () => void): boolean {
    if (this.durableEnd >= this.#written) return false
    this.#waiters.push({ lsn: this.#written, done })
    this.#start()
    return true
  }

  truncate(lsn: Lsn, done: () => void): void {
    if (this.#writing) {
      this.#idle = () => this.truncate(lsn, done)
      return
    }
    this.#writing = true
    this.#clear(WAL, lsn - this.#options.startLsn)
    this.#later(() => {
      this.#disk.sync(WAL)
      this.#queue = []
      this.#written = lsn
      this.durableEnd = lsn
      this.#writing = false
      done()
      this.#settle()
    })
  }

  /** Stores the control file; writes happen in the order of the calls. */
  persist(control: ControlState, done: () => void): void {
    this.#controls.push({ control, done })
    if (this.#controls.length === 1) this.#writeControl()
  }

  /** Bytes as a program reads them. */
  read(from: Lsn, to: Lsn): Buffer {
    return this.#disk.read(WAL, from - this.#options.startLsn, to - from)
  }

  /** Bytes on the medium. */
  readDurable(from: Lsn, to: Lsn): Buffer {
    const bytes = this.#disk.readDurable(WAL, from - this.#options.startLsn, to - from)
    return bytes ?? Buffer.alloc(to - from)
  }

  /** What lies behind the end of the log, when anything does. */
  hasTail(lsn: Lsn): boolean {
    const end = lsn - this.#options.startLsn
    return this.#disk
      .pagesOf(WAL)
      .some(({ offset, bytes }) => offset + bytes.length > end && hasBytes(bytes, end - offset))
  }

  #clear(name: string, from: number): void {
    for (const { offset, bytes } of this.#disk.pagesOf(name)) {
      const start = Math.max(0, from - offset)
      if (start >= bytes.length || !hasBytes(bytes, start)) continue
      this.#disk.write(name, offset + start, Buffer.alloc(bytes.length - start))
    }
  }

  #start(): void {
    if (this.#writing || this.#queue.length === 0) return
    this.#writing = true
    const taken = this.#queue
    this.#queue = []
    const epoch = this.#epoch
    for (const { lsn, bytes } of taken) {
      this.#disk.write(WAL, lsn - this.#options.startLsn, bytes)
    }
    const last = taken.at(-1) as Queued
    const end = last.lsn + last.bytes.length
    this.#later(() => {
      if (this.#options.eio.fires(this.#options.eioChance)) {
        this.#disk.failSync(WAL)
        if (this.#options.mutation !== 'ack-after-failed-sync') {
          this.#options.onFatal()
          return
        }
      } else this.#disk.sync(WAL)
      this.#writing = false
      this.durableEnd = end
      this.#options.onDurable(epoch, end)
      this.#settle()
    })
  }

  #settle(): void {
    const waiting = this.#waiters
    if (waiting.length > 0) {
      this.#waiters = waiting.filter((waiter) => waiter.lsn > this.durableEnd)
      for (const waiter of waiting) if (waiter.lsn <= this.durableEnd) waiter.done()
    }
    const idle = this.#idle
    this.#idle = null
    if (idle) idle()
    else this.#start()
  }

  #writeControl(): void {
    const next = this.#controls[0]
    if (next === undefined) return
    const disk = this.#disk
    if (disk.full) {
      this.#options.host.after(RETRY_MS, () => this.#writeControl())
      return
    }
    disk.create(TEMPORARY)
    disk.write(TEMPORARY, 0, encodeControlState(next.control))
    this.#later(() => {
      disk.sync(TEMPORARY)
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
    host.after(0.05 + random.next() * maxDelayMs(), work)
  }
}

const ZEROS = Buffer.alloc(4096)

/** Whether anything but zeros lies at or behind `from`. */
function hasBytes(bytes: Buffer, from: number): boolean {
  const rest = bytes.subarray(Math.max(0, from))
  return !rest.equals(ZEROS.subarray(0, rest.length))
}
