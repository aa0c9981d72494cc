/**
 * A disk of one simulated machine: files in one folder, each with what programs read back (the page
 * cache) and what is on the medium. A sync moves the one to the other; power loss takes what was not
 * synced by the sector, and what was done to names without a sync of the folder operation by
 * operation, in any combination. A failed sync calls the pages clean and leaves the medium as it was.
 *
 * Pages are shared between both images until one of them is written to.
 */
import type { Prng } from './prng.ts'

const SECTOR_BYTES = 512
const PAGE_BYTES = 4096
const ALL_SECTORS = 255
const ZEROS = Buffer.alloc(PAGE_BYTES)

class SimFile {
  readonly inode: number
  length = 0
  durableLength = 0
  cached = new Map<number, Buffer>()
  durable = new Map<number, Buffer>()
  /** Page -> bit per sector that differs from the medium. */
  readonly dirty = new Map<number, number>()

  constructor(inode: number) {
    this.inode = inode
  }

  write(offset: number, bytes: Buffer): void {
    let done = 0
    while (done < bytes.length) {
      const page = Math.floor((offset + done) / PAGE_BYTES)
      const start = (offset + done) % PAGE_BYTES
      const length = Math.min(PAGE_BYTES - start, bytes.length - done)
      let target = this.cached.get(page)
      if (target === undefined || target === this.durable.get(page)) {
        target = Buffer.from(target ?? ZEROS)
        this.cached.set(page, target)
      }
      bytes.copy(target, start, done, done + length)
      const first = Math.floor(start / SECTOR_BYTES)
      const last = Math.floor((start + length - 1) / SECTOR_BYTES)
      const mask = ((1 << (last + 1)) - 1) & ~((1 << first) - 1)
      this.dirty.set(page, (this.dirty.get(page) ?? 0) | mask)
      done += length
    }
    this.length = Math.max(this.length, offset + bytes.length)
  }

  /** Cuts the file, or makes it longer with zeros. */
  resize(length: number): void {
    if (length < this.length) {
      for (const page of [...this.cached.keys()]) {
        const start = page * PAGE_BYTES
        if (start >= length) {
          this.cached.delete(page)
          this.dirty.set(page, ALL_SECTORS)
        } else if (start + PAGE_BYTES > length) {
          this.write(length, ZEROS.subarray(0, start + PAGE_BYTES - length))
        }
      }
    }
    this.length = length
  }

  /** Zeros there; only what holds anything is touched. */
  zero(from: number, to: number): void {
    for (const page of new Set([...this.cached.keys(), ...this.durable.keys()])) {
      const start = Math.max(from, page * PAGE_BYTES)
      const end = Math.min(to, (page + 1) * PAGE_BYTES)
      if (start < end) this.write(start, ZEROS.subarray(0, end - start))
    }
  }

  /** What is read there is to be written again by the next sync. */
  rewrite(from: number, to: number): void {
    for (const page of new Set([...this.cached.keys(), ...this.durable.keys()])) {
      const start = Math.max(from, page * PAGE_BYTES)
      const end = Math.min(to, (page + 1) * PAGE_BYTES)
      if (start < end) this.write(start, Buffer.from(readPages(this.cached, start, end - start)))
    }
  }

  isZero(from: number, to: number): boolean {
    for (const [page, bytes] of this.cached) {
      const start = Math.max(from - page * PAGE_BYTES, 0)
      const end = Math.min(to - page * PAGE_BYTES, PAGE_BYTES)
      if (start < end && !bytes.subarray(start, end).equals(ZEROS.subarray(start, end)))
        return false
    }
    return true
  }

  sync(): void {
    for (const page of this.dirty.keys()) {
      const bytes = this.cached.get(page)
      if (bytes === undefined) this.durable.delete(page)
      else this.durable.set(page, bytes)
    }
    this.dirty.clear()
    this.durableLength = this.length
  }

  /** Returns whether some but not all of what was pending survived. */
  crash(random: Prng, keep: number): boolean {
    let kept = 0
    let lost = 0
    for (const [page, mask] of this.dirty) {
      const source = this.cached.get(page) ?? ZEROS
      const target = Buffer.from(this.durable.get(page) ?? ZEROS)
      for (let sector = 0; sector < PAGE_BYTES / SECTOR_BYTES; sector += 1) {
        if ((mask & (1 << sector)) === 0) continue
        if (random.chance(keep)) {
          source.copy(
            target,
            sector * SECTOR_BYTES,
            sector * SECTOR_BYTES,
            (sector + 1) * SECTOR_BYTES,
          )
          kept += 1
        } else lost += 1
      }
      this.durable.set(page, target)
    }
    this.dirty.clear()
    if (this.durableLength !== this.length && random.chance(keep)) this.durableLength = this.length
    this.length = this.durableLength
    this.cached = new Map(this.durable)
    return kept > 0 && lost > 0
  }
}

function readPages(pages: Map<number, Buffer>, offset: number, length: number): Buffer {
  const first = Math.floor(offset / PAGE_BYTES)
  const start = offset - first * PAGE_BYTES
  if (start + length <= PAGE_BYTES) {
    return (pages.get(first) ?? ZEROS).subarray(start, start + length)
  }
  const out = Buffer.allocUnsafe(length)
  for (let done = 0; done < length; ) {
    const page = Math.floor((offset + done) / PAGE_BYTES)
    const from = (offset + done) % PAGE_BYTES
    const taken = Math.min(PAGE_BYTES - from, length - done)
    ;(pages.get(page) ?? ZEROS).copy(out, done, from, from + taken)
    done += taken
  }
  return out
}

interface NameChange {
  name: string
  /** Null: the name goes away. */
  file: SimFile | null
  /** The name it had before, for a rename. */
  before: string | null
}

export class SimDisk {
  #files = new Map<string, SimFile>()
  #durableFiles = new Map<string, SimFile>()
  #pending: NameChange[] = []
  #inodes = 0
  /** No new file can be made while this is true. */
  full = false

  names(): string[] {
    return [...this.#files.keys()].sort()
  }

  has(name: string): boolean {
    return this.#files.has(name)
  }

  /** A new empty file, in place of one that has the name. */
  create(name: string): void {
    this.#change({ name, file: new SimFile(++this.#inodes), before: null })
  }

  rename(from: string, to: string): void {
    this.#change({ name: to, file: this.#file(from), before: from })
  }

  unlink(name: string): void {
    this.#change({ name, file: null, before: null })
  }

  /** Makes what was done to names durable. */
  syncFolder(): void {
    this.#durableFiles = new Map(this.#files)
    this.#pending = []
  }

  write(name: string, offset: number, bytes: Buffer): void {
    this.#file(name).write(offset, bytes)
  }

  resize(name: string, length: number): void {
    this.#file(name).resize(length)
  }

  sync(name: string): void {
    this.#file(name).sync()
  }

  /** The sync reports an error: the medium stays as it was, and the next sync will not try again. */
  failSync(name: string): void {
    this.#file(name).dirty.clear()
  }

  inode(name: string): number {
    return this.#file(name).inode
  }

  size(name: string): number {
    return this.#file(name).length
  }

  /** What a program reads; a view, or a copy when it spans pages. */
  read(name: string, offset: number, length: number): Buffer {
    return readPages(this.#file(name).cached, offset, length)
  }

  /** What is on the medium under a name now; null when there is no such file for sure. */
  readDurable(name: string, offset: number, length: number): Buffer | null {
    const file = this.#files.get(name)
    return file === undefined ? null : readPages(file.durable, offset, length)
  }

  zero(name: string, from: number, to: number): void {
    this.#file(name).zero(from, to)
  }

  rewrite(name: string, from: number, to: number): void {
    this.#file(name).rewrite(from, to)
  }

  isZero(name: string, from: number, to: number): boolean {
    return this.#file(name).isZero(from, to)
  }

  /** Power goes away. Returns whether a file was left with a part of what was written. */
  crash(random: Prng): boolean {
    const keep = random.next()
    for (const change of this.#pending) {
      if (!random.chance(keep)) continue
      if (change.before !== null) this.#durableFiles.delete(change.before)
      if (change.file === null) this.#durableFiles.delete(change.name)
      else this.#durableFiles.set(change.name, change.file)
    }
    this.#pending = []
    let torn = false
    for (const file of new Set(this.#durableFiles.values())) {
      if (file.crash(random, keep)) torn = true
    }
    this.#files = new Map(this.#durableFiles)
    return torn
  }

  /** The disk is replaced by an empty one. */
  wipe(): void {
    this.#files.clear()
    this.#durableFiles.clear()
    this.#pending = []
  }

  #file(name: string): SimFile {
    const file = this.#files.get(name)
    if (file === undefined) throw new Error(`there is no file ${name}`)
    return file
  }

  #change(change: NameChange): void {
    if (change.before !== null) this.#files.delete(change.before)
    if (change.file === null) this.#files.delete(change.name)
    else this.#files.set(change.name, change.file)
    this.#pending.push(change)
  }
}
