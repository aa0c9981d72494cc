/**
 * One immutable layer as readers use it: identity, resident index, and chunks read on demand.
 *
 * The object in storage is the truth; the local file is a cache of it. The index is loaded at first
 * use; a local file that is missing, short or damaged is fetched again. Bytes whose checksum is
 * wrong are never handed out: after one fresh fetch the read fails and names the chunk.
 */
import { close, fstat, open, read } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { crc32 } from 'node:zlib'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import { renameDurably } from '#libs/object-store/durable-file.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { ChunkCache } from './chunk-cache.ts'
import { type Codec, decodeFooter, FOOTER_SIZE, footerCrc, unpack } from './layer-format.ts'
import { LayerIndex } from './layer-index.ts'
import { isL0, type LayerId, layerName } from './layer-name.ts'

/** What the manifest says of a layer. */
export interface LayerEntry {
  id: LayerId
  sizeBytes: number
  /** CRC of the footer. */
  crc: number
  /** The timeline whose object it is, when it was taken over from an ancestor; null = our own. */
  origin: TimelineId | null
  /**
   * Of a layer taken over, only versions below this LSN count, and only of classes that branches
   * inherit. Null exactly when `origin` is.
   */
  ceilingLsn: Lsn | null
}

export interface LayerContext {
  folder: string
  /** Folder of a timeline's layers in object storage; null: of the timeline itself. */
  objectFolder: (origin: TimelineId | null) => string
  store: ObjectStore
  slots: SlotTable
  cache: ChunkCache
}

/** One file read serves chunks this close to each other, up to this size. */
const MERGED_READ_BYTES = 512 * 1024

const openFile = promisify(open)
const closeFile = promisify(close)
const statFile = promisify(fstat)
let lastLayerNumber = 0
let tempCount = 0

export class Layer {
  readonly id: LayerId
  readonly name: string
  /** Tells layers of one timeline apart, whoever made them. */
  readonly key: string
  readonly origin: TimelineId | null
  readonly ceilingLsn: Lsn | null
  /** Exclusive end of the versions that count. */
  readonly endLsn: Lsn
  readonly sizeBytes: number
  readonly crc: number
  /** A delta of all keys, as a flush writes it; merges cut them by keys. */
  readonly isL0: boolean
  /** Number within the process, for caches. */
  readonly number: number
  readonly #context: LayerContext
  #index: LayerIndex | null = null
  #fd = -1
  #loading: Promise<void> | null = null
  /** Reads under way; the file stays open for them. */
  #reading = 0
  #onIdle: (() => void) | null = null

  constructor(entry: LayerEntry, context: LayerContext) {
    this.id = entry.id
    this.name = layerName(entry.id)
    this.origin = entry.origin
    this.ceilingLsn = entry.ceilingLsn
    this.key = layerKey(entry)
    this.endLsn = Math.min(entry.id.endLsn, entry.ceilingLsn ?? entry.id.endLsn)
    this.sizeBytes = entry.sizeBytes
    this.crc = entry.crc
    this.isL0 = isL0(entry.id)
    this.number = ++lastLayerNumber
    this.#context = context
  }

  get entry(): LayerEntry {
    const { id, sizeBytes, crc, origin, ceilingLsn } = this
    return { id, sizeBytes, crc, origin, ceilingLsn }
  }

  /** Of the local copy. */
  get fileName(): string {
    return this.origin === null ? this.name : `${this.origin}.${this.name}`
  }

  get path(): string {
    return join(this.#context.folder, this.fileName)
  }

  get objectName(): string {
    return `${this.#context.objectFolder(this.origin)}/${this.name}`
  }

  get isLoaded(): boolean {
    return this.#index !== null
  }

  get index(): LayerIndex {
    assert(this.#index !== null, 'a layer is loaded before it is searched')
    return this.#index
  }

  /** Makes the index resident, fetching the file when needed. Callers at once share the work. */
  load(): Promise<void> {
    if (this.#index) return Promise.resolve()
    this.#loading ??= this.#load().finally(() => {
      this.#loading = null
    })
    return this.#loading
  }

  /** Expanded chunks, in the order asked for. Throws `corrupt` naming layer and chunk. */
  async readChunks(wanted: readonly number[]): Promise<Map<number, Buffer>> {
    const found = new Map<number, Buffer>()
    const missing: number[] = []
    for (const chunk of wanted) {
      const cached = this.#context.cache.get(this.number, chunk)
      if (cached) found.set(chunk, cached)
      else missing.push(chunk)
    }
    if (missing.length === 0) return found
    missing.sort((a, b) => a - b)
    this.#reading++
    try {
      await Promise.all(this.#runs(missing).map((run) => this.#readRun(run, found)))
    } finally {
      this.#reading--
      if (this.#reading === 0) this.#onIdle?.()
    }
    return found
  }

  /**
   * The layer has left the map: when the reads that began before have ended, its local file goes.
   * Reads plan and begin in one step, so none begins after this.
   */
  async retire(): Promise<void> {
    if (this.#reading > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve
      })
    }
    const fd = this.#fd
    this.#fd = -1
    if (fd >= 0) await closeFile(fd)
    await rm(this.path, { force: true })
  }

  async close(): Promise<void> {
    const fd = this.#fd
    this.#fd = -1
    this.#index = null
    if (fd >= 0) await closeFile(fd)
  }

  async #load(): Promise<void> {
    try {
      await this.#open()
    } catch (error) {
      if (!isLocalFault(error)) throw error
      await this.#fetch()
      await this.#open()
    }
  }

  /** Opens the local file and checks it against the manifest. */
  async #open(): Promise<void> {
    const fd = await openFile(this.path, 'r')
    try {
      const { size } = await statFile(fd)
      if (size !== this.sizeBytes) {
        throw this.#corrupt(`the file has ${size} bytes in place of ${this.sizeBytes}`)
      }
      const footerBytes = await readFully(fd, size - FOOTER_SIZE, FOOTER_SIZE)
      const footer = decodeFooter(footerBytes)
      if (!footer || footerCrc(footerBytes) !== this.crc || footer.fileBytes !== size) {
        throw this.#corrupt('the footer is not the one that was written')
      }
      const stored = await readFully(fd, footer.indexOffset, footer.indexStoredBytes)
      if (crc32(stored) !== footer.indexCrc) throw this.#corrupt('the index has a wrong checksum')
      const section = unpack(stored, footer.indexCodec, footer.indexRawBytes)
      const { groups, rows, chunks } = footer
      this.#index = new LayerIndex(
        this.id.kind,
        { groups, rows, chunks },
        section,
        this.#context.slots,
      )
      this.#fd = fd
    } catch (error) {
      await closeFile(fd)
      throw error
    }
  }

  async #fetch(): Promise<void> {
    await mkdir(dirname(this.path), { recursive: true })
    const temp = `${this.path}.fetch~${tempCount++}`
    try {
      await this.#context.store.getFile(this.objectName, temp)
      await renameDurably(temp, this.path)
    } catch (error) {
      await rm(temp, { force: true })
      throw new ZenithError(
        'corrupt',
        `layer ${this.name} cannot be fetched from object storage: ${errorMessage(error)}`,
        { cause: error },
      )
    }
  }

  /** Neighbouring chunks, grouped so that each group is one file read. */
  #runs(chunks: readonly number[]): number[][] {
    const { chunkOffset, chunkStored } = this.index.columns
    const runs: number[][] = []
    let run: number[] = []
    let runStart = 0
    for (const chunk of chunks) {
      const start = chunkOffset[chunk] as number
      const end = start + (chunkStored[chunk] as number)
      const last = run[run.length - 1]
      if (last !== undefined && last + 1 === chunk && end - runStart <= MERGED_READ_BYTES) {
        run.push(chunk)
        continue
      }
      run = [chunk]
      runStart = start
      runs.push(run)
    }
    return runs
  }

  async #readRun(run: readonly number[], into: Map<number, Buffer>): Promise<void> {
    const { chunkOffset, chunkStored } = this.index.columns
    const first = run[0] as number
    const last = run[run.length - 1] as number
    const start = chunkOffset[first] as number
    const length = (chunkOffset[last] as number) + (chunkStored[last] as number) - start
    const bytes = await readFully(this.#fd, start, length)
    for (const chunk of run) {
      const at = (chunkOffset[chunk] as number) - start
      const stored = bytes.subarray(at, at + (chunkStored[chunk] as number))
      const raw = this.#expand(chunk, stored) ?? (await this.#repair(chunk))
      this.#context.cache.add(this.number, chunk, raw)
      into.set(chunk, raw)
    }
  }

  /** Null when the checksum is wrong. */
  #expand(chunk: number, stored: Buffer): Buffer | null {
    const { chunkCrc, chunkCodec, chunkRaw } = this.index.columns
    if (crc32(stored) !== chunkCrc[chunk]) return null
    return unpack(stored, chunkCodec[chunk] as Codec, chunkRaw[chunk] as number)
  }

  /** Reads a damaged chunk from object storage; the bad local file goes, so it is fetched anew. */
  async #repair(chunk: number): Promise<Buffer> {
    const { chunkOffset, chunkStored } = this.index.columns
    const start = chunkOffset[chunk] as number
    const length = chunkStored[chunk] as number
    let raw: Buffer | null = null
    let reason = 'its copy in object storage is damaged too'
    try {
      const stored = await this.#context.store.getRange(this.objectName, start, length)
      raw = this.#expand(chunk, stored)
    } catch (error) {
      reason = errorMessage(error)
    }
    if (!raw) {
      throw this.#corrupt(
        `chunk ${chunk} (bytes ${start} to ${start + length}) has a wrong checksum and ${reason}`,
      )
    }
    // The open file keeps serving its good chunks; the next open fetches a fresh copy.
    await rm(this.path, { force: true })
    return raw
  }

  #corrupt(what: string): ZenithError {
    return new ZenithError('corrupt', `layer ${this.name} is damaged: ${what}`, {
      hint: `Compare ${this.path} with the object ${this.objectName}.`,
    })
  }
}

/** What tells layers of one timeline apart: the name, behind the origin's id when it has one. */
export function layerKey(entry: LayerEntry): string {
  const name = layerName(entry.id)
  return entry.origin === null ? name : `${entry.origin}/${name}`
}

/** Faults of the local copy, which a fresh copy may cure. */
function isLocalFault(error: unknown): boolean {
  if (error instanceof ZenithError) return error.code === 'corrupt'
  return error instanceof Error && (error as NodeJS.ErrnoException).code === 'ENOENT'
}

function readFully(fd: number, position: number, length: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const bytes = Buffer.allocUnsafeSlow(length)
    let done = 0
    const step = () => {
      read(fd, bytes, done, length - done, position + done, (error, bytesRead) => {
        if (error) return reject(error)
        done += bytesRead
        if (done === length) return resolve(bytes)
        if (bytesRead === 0) {
          return reject(new ZenithError('corrupt', 'a layer file ends too early'))
        }
        step()
      })
    }
    if (length === 0) resolve(bytes)
    else step()
  })
}
