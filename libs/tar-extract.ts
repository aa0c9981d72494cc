/**
 * Unpacks the tar of a base backup as it arrives. Only what a base backup holds is allowed: plain
 * files and folders with relative names (ustar). Writes are synchronous: the files are small, so a
 * system call costs less than a trip through the thread pool, and starting fast matters.
 */
import {
  closeSync,
  constants,
  fchownSync,
  ftruncateSync,
  lchownSync,
  mkdirSync,
  openSync,
  writeSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import { parseWalPartName } from '#libs/protocol/base-backup.ts'
import type { SystemUser } from '#libs/system-user.ts'

const { O_CREAT, O_WRONLY } = constants

const BLOCK = 512
const FILE_MODE = 0o600
const FOLDER_MODE = 0o700

interface Header {
  name: string
  sizeBytes: number
  isFolder: boolean
}

interface OpenFile {
  descriptor: number
  /** Where the next bytes of the entry go, and where they end. */
  offset: number
  endOffset: number
  /** Length of the whole file. */
  sizeBytes: number
}

/**
 * Feed it chunks of any size, then `end()`. Throws `corrupt` on anything that is not a well-formed
 * base backup: a bad checksum, a name that leads outside, an end in the middle of a file.
 */
export class TarExtractor {
  readonly #folder: string
  readonly #owner: SystemUser | null
  /** Bytes of a header that has not fully arrived. */
  #partial: Buffer = Buffer.alloc(0)
  #file: OpenFile | null = null
  #paddingBytes = 0
  #finished = false
  fileCount = 0
  byteCount = 0

  constructor(folder: string, owner: SystemUser | null) {
    this.#folder = folder
    this.#owner = owner
  }

  write(chunk: Buffer): void {
    let at = 0
    while (at < chunk.length) {
      if (this.#file !== null) at += this.#writeContents(chunk, at)
      else if (this.#paddingBytes > 0) {
        const skipped = Math.min(this.#paddingBytes, chunk.length - at)
        this.#paddingBytes -= skipped
        at += skipped
      } else at += this.#readHeader(chunk, at)
    }
  }

  end(): void {
    if (this.#file !== null || !this.#finished) {
      throw new ZenithError('corrupt', 'the base backup ends in the middle')
    }
  }

  /** Gives a path to the owner of what is unpacked. */
  own(path: string): void {
    if (this.#owner) lchownSync(path, this.#owner.uid, this.#owner.gid)
  }

  #readHeader(chunk: Buffer, at: number): number {
    const taken = Math.min(BLOCK - this.#partial.length, chunk.length - at)
    let block = chunk.subarray(at, at + taken)
    if (this.#partial.length > 0 || taken < BLOCK) {
      this.#partial = Buffer.concat([this.#partial, block])
      if (this.#partial.length < BLOCK) return taken
      block = this.#partial
      this.#partial = Buffer.alloc(0)
    }
    const header = parseHeader(block)
    if (header === null) this.#finished = true
    else this.#begin(header)
    return taken
  }

  #begin(header: Header): void {
    if (this.#finished) throw new ZenithError('corrupt', 'the base backup goes on after its end')
    const path = join(this.#folder, header.name)
    if (header.isFolder) {
      mkdirSync(path, { recursive: true, mode: FOLDER_MODE })
      this.own(path)
      return
    }
    this.#file = this.#open(path, header)
    this.#paddingBytes = (BLOCK - (header.sizeBytes % BLOCK)) % BLOCK
    if (header.sizeBytes === 0) this.#closeFile()
  }

  #open(path: string, header: Header): OpenFile {
    const part = parseWalPartName(header.name)
    const target = part ? join(this.#folder, part.file) : path
    // Parts of one segment come one after another; every other file must be new.
    const flags = part ? O_WRONLY | O_CREAT : 'wx'
    const descriptor = this.#within(target, () => openSync(target, flags, FILE_MODE))
    if (this.#owner) fchownSync(descriptor, this.#owner.uid, this.#owner.gid)
    this.fileCount++
    const offset = part?.offset ?? 0
    const endOffset = offset + header.sizeBytes
    return { descriptor, offset, endOffset, sizeBytes: part?.fileSizeBytes ?? endOffset }
  }

  /**
   * Makes the folder if it has not been named: pg_basebackup names no folders in pg_wal.tar, where
   * `archive_status/...` is among the segments of a server that archives its WAL.
   */
  #within<T>(path: string, open: () => T): T {
    try {
      return open()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      const first = mkdirSync(dirname(path), { recursive: true, mode: FOLDER_MODE })
      if (first === undefined) throw error
      for (let at = dirname(path); at.length >= first.length; at = dirname(at)) this.own(at)
      return open()
    }
  }

  #writeContents(chunk: Buffer, at: number): number {
    const file = this.#file as OpenFile
    const length = Math.min(file.endOffset - file.offset, chunk.length - at)
    // WAL segments are mostly zeros: leaving holes keeps them from costing disk and time.
    if (!isZero(chunk, at, at + length)) {
      for (let done = 0; done < length; ) {
        done += writeSync(file.descriptor, chunk, at + done, length - done, file.offset + done)
      }
    }
    file.offset += length
    this.byteCount += length
    if (file.offset === file.endOffset) this.#closeFile()
    return length
  }

  #closeFile(): void {
    const file = this.#file as OpenFile
    ftruncateSync(file.descriptor, file.sizeBytes)
    closeSync(file.descriptor)
    this.#file = null
  }
}

/**
 * One ustar header block: name 0..100, size 124..136 octal, checksum 148..156, type 156, prefix
 * 345..500. Returns null for the block of zeros that ends the archive.
 */
function parseHeader(block: Buffer): Header | null {
  if (isZero(block, 0, BLOCK)) return null
  let sum = 0
  for (let index = 0; index < BLOCK; index++) {
    sum += index >= 148 && index < 156 ? 32 : (block[index] as number)
  }
  if (sum !== octal(block, 148, 156)) {
    throw new ZenithError('corrupt', 'a header in the base backup has a wrong checksum')
  }
  const type = String.fromCharCode(block[156] as number)
  const prefix = text(block, 345, 500)
  const name = (prefix ? `${prefix}/` : '') + text(block, 0, 100)
  const isFolder = type === '5'
  if (!isFolder && type !== '0' && type !== '\0') {
    throw new ZenithError('corrupt', `the base backup holds "${name}" of the odd type "${type}"`)
  }
  if (name.startsWith('/') || name.split('/').includes('..')) {
    throw new ZenithError('corrupt', `the base backup names a place outside: "${name}"`)
  }
  return { name, sizeBytes: isFolder ? 0 : octal(block, 124, 136), isFolder }
}

function text(block: Buffer, from: number, to: number): string {
  const end = block.indexOf(0, from)
  return block.toString('utf8', from, end === -1 || end > to ? to : end)
}

function octal(block: Buffer, from: number, to: number): number {
  const digits = text(block, from, to).trim()
  return digits === '' ? 0 : Number.parseInt(digits, 8)
}

const ZEROS = Buffer.alloc(65536)

function isZero(buffer: Buffer, from: number, to: number): boolean {
  for (let at = from; at < to; at += ZEROS.length) {
    const end = Math.min(to, at + ZEROS.length)
    if (buffer.compare(ZEROS, 0, end - at, at, end) !== 0) return false
  }
  return true
}
