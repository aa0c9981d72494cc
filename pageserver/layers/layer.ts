/**
 * One immutable layer as readers use it: identity, resident index, and chunks read on demand.
 *
 * The object in storage is the truth; the local file is a cache of it. The index is loaded at first
 * use, from the object when there is no file, so that a read that finds nothing here needs no data.
 * Bytes whose checksum is wrong are never handed out: a bad local file goes, and when the object is
 * bad too the read fails and names the chunk.
 */
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { ShardFilter } from '../ingest/shard-filter.ts'
import { isInheritedClass } from '../keyspace/key-class.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { ChunkCache } from './chunk-cache.ts'
import { type BytesContext, LayerBytes } from './layer-bytes.ts'
import { type Codec, unpack } from './layer-format.ts'
import { type IndexColumns, LayerIndex } from './layer-index.ts'
import type { Evictable } from './second-chance.ts'
import { isL0, type LayerId, layerName } from './layer-name.ts'
import { LayerFlag, type LayerTable } from './layer-table.ts'

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
  /**
   * The shard (or the tenant before it had shards) in whose folder the object is, when it was taken
   * over at a split; absent = our own. Of such a layer only keys count that belong to us.
   */
  splitFrom?: TenantId | undefined
}

/** What tells layers of one timeline apart. */
export type LayerIdentity = Pick<LayerEntry, 'id' | 'origin' | 'splitFrom'>

/** Where the object of a layer is. */
export type LayerPlace = Pick<LayerEntry, 'origin' | 'splitFrom'>

export interface LayerContext extends BytesContext {
  folder: string
  /** Folder of a timeline's layers in object storage. */
  objectFolder: (place: LayerPlace) => string
  /** Which keys belong to us; absent or null = all. */
  shard?: ShardFilter | null
  slots: SlotTable
  cache: ChunkCache
}

/** One file read serves chunks this close to each other, up to this size. */
const MERGED_READ_BYTES = 512 * 1024
/** Of an object larger pieces are cheaper, also when some of their bytes are of no use. */
const MERGED_OBJECT_BYTES = 1024 * 1024
const OBJECT_GAP_BYTES = 128 * 1024

const SECOND_MS = 1000

let lastLayerNumber = 0

export class Layer implements Evictable {
  readonly id: LayerId
  readonly origin: TimelineId | null
  readonly ceilingLsn: Lsn | null
  readonly splitFrom: TenantId | undefined
  /** Exclusive end of the versions that count. */
  readonly endLsn: Lsn
  readonly sizeBytes: number
  readonly crc: number
  /** A delta of all keys, as a flush writes it; merges cut them by keys. */
  readonly isL0: boolean
  /** Number within the process, for caches. */
  readonly number: number
  /** The index was used since somebody looked. */
  wasUsed = false
  /** Where it is described while it is in a map; what is known of it besides lies there, too. */
  #place: { table: LayerTable; row: number } | null = null
  /** What is known of it while it is in no map. */
  #flags = 0
  #accessSeconds = 0
  #name: string | null = null
  readonly #context: LayerContext
  readonly #bytes: LayerBytes
  #index: LayerIndex | null = null
  #loading: Promise<LayerIndex> | null = null
  /** Reads under way; the file stays open for them. */
  #reading = 0
  #onIdle: (() => void) | null = null

  constructor(entry: LayerEntry, context: LayerContext) {
    this.id = entry.id
    this.origin = entry.origin
    this.ceilingLsn = entry.ceilingLsn
    this.splitFrom = entry.splitFrom
    this.endLsn = Math.min(entry.id.endLsn, entry.ceilingLsn ?? entry.id.endLsn)
    this.sizeBytes = entry.sizeBytes
    this.crc = entry.crc
    this.isL0 = isL0(entry.id)
    this.number = ++lastLayerNumber
    this.#context = context
    this.#bytes = new LayerBytes(this, context)
  }

  get name(): string {
    this.#name ??= layerName(this.id)
    return this.#name
  }

  /** Tells layers of one timeline apart, whoever made them. */
  get key(): string {
    return layerKey(this)
  }

  get entry(): LayerEntry {
    const { id, sizeBytes, crc, origin, ceilingLsn, splitFrom } = this
    const entry = { id, sizeBytes, crc, origin, ceilingLsn }
    return splitFrom === undefined ? entry : { ...entry, splitFrom }
  }

  /** Of the local copy. */
  get fileName(): string {
    return layerFileName(this)
  }

  get path(): string {
    return join(this.#context.folder, this.fileName)
  }

  get objectName(): string {
    return `${this.#context.objectFolder(this)}/${this.name}`
  }

  /** False when nothing that it holds of the prefix counts. */
  countsPrefix(slot: number): boolean {
    const { slots, shard } = this.#context
    if (this.origin !== null && !isInheritedClass(slots.cls(slot))) return false
    return this.splitFrom === undefined || !shard || shard.keepsSome(slot)
  }

  /** False when what it holds of the key does not count. */
  counts(slot: number, blk: number): boolean {
    const { slots, shard } = this.#context
    if (this.origin !== null && !isInheritedClass(slots.cls(slot))) return false
    return this.splitFrom === undefined || !shard || shard.keeps(slot, blk)
  }

  /** Its row in the table; -1 while it is in no map. */
  get row(): number {
    return this.#place?.row ?? -1
  }

  /** It has come into a map: what is known of it moves to the table. */
  enter(table: LayerTable, row: number): void {
    assert(this.#place === null, 'a layer is in one map')
    this.#place = { table, row }
    for (const flag of Object.values(LayerFlag)) {
      if ((this.#flags & flag) !== 0) table.set(row, flag, true)
    }
    if (this.#accessSeconds > 0) table.setAccessSeconds(row, this.#accessSeconds)
  }

  /** It has a row already, and is made anew for who needs it. */
  describe(table: LayerTable, row: number): this {
    this.#place = { table, row }
    return this
  }

  /** It is about to leave the map: its row will stand for another one. */
  leave(): void {
    for (const flag of Object.values(LayerFlag)) {
      this.#flags = this.#has(flag) ? this.#flags | flag : this.#flags & ~flag
    }
    this.#accessSeconds = this.lastAccessMs / SECOND_MS
    this.#place = null
  }

  /** When its data was read last, as `Date.now()`, in whole seconds; 0 = not known. */
  get lastAccessMs(): number {
    const place = this.#place
    return (place ? place.table.accessSeconds(place.row) : this.#accessSeconds) * SECOND_MS
  }

  set lastAccessMs(timeMs: number) {
    const seconds = Math.floor(timeMs / SECOND_MS)
    if (this.#place) this.#place.table.setAccessSeconds(this.#place.row, seconds)
    else this.#accessSeconds = seconds
  }

  /** Whether its file is on local disk; null = nobody has looked. */
  get isLocal(): boolean | null {
    if (this.#has(LayerFlag.Local)) return true
    return this.#has(LayerFlag.Absent) ? false : null
  }

  set isLocal(value: boolean | null) {
    this.#set(LayerFlag.Local, value === true)
    this.#set(LayerFlag.Absent, value === false)
  }

  /** True when its file is on local disk, as far as known. */
  get isResident(): boolean {
    return this.#has(LayerFlag.Local)
  }

  get isLoaded(): boolean {
    return this.#index !== null
  }

  /** For who has loaded it and waited for nothing since. */
  get index(): LayerIndex {
    assert(this.#index !== null, 'a layer is loaded before it is searched')
    this.wasUsed = true
    return this.#index
  }

  /** The index if it is at hand. */
  get residentIndex(): LayerIndex | null {
    this.wasUsed = true
    return this.#index
  }

  /** Lets go of the index; who holds it may go on using it. */
  dropIndex(): void {
    this.#index = null
  }

  /**
   * Makes the index resident and returns it, to be held by who needs it for longer: it may be let go
   * at any time. Callers at once share the work.
   */
  load(): Promise<LayerIndex> {
    if (this.#index) return Promise.resolve(this.index)
    this.#loading ??= this.#load().finally(() => {
      this.#loading = null
    })
    return this.#loading
  }

  /** Expanded chunks, in the order asked for. Throws `corrupt` naming layer and chunk. */
  async readChunks(
    wanted: readonly number[],
    index: LayerIndex = this.index,
  ): Promise<Map<number, Buffer>> {
    const { columns } = index
    const found = new Map<number, Buffer>()
    const missing: number[] = []
    for (const chunk of wanted) {
      const cached = this.#context.cache.get(this.number, chunk)
      if (cached) found.set(chunk, cached)
      else missing.push(chunk)
    }
    if (missing.length === 0) return found
    this.lastAccessMs = Date.now()
    this.#reading++
    try {
      if (missing.length === 1) await this.#readRun(missing, columns, found)
      else {
        missing.sort((a, b) => a - b)
        const runs = this.#runs(missing, columns)
        await Promise.all(runs.map((run) => this.#readRun(run, columns, found)))
      }
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
    this.#forgetIndex()
    await this.#bytes.close({ remove: true })
  }

  async close(): Promise<void> {
    this.#forgetIndex()
    await this.#bytes.close({ remove: false })
  }

  /**
   * While this is set the object does not exist yet, and the file is not given up: a bad one is an
   * error, since nothing can replace it.
   */
  set isOnlyCopy(value: boolean) {
    this.#set(LayerFlag.OnlyCopy, value)
    if (value) this.isLocal = true
  }

  get isOnlyCopy(): boolean {
    return this.#has(LayerFlag.OnlyCopy)
  }

  /** Brings the whole file to local disk, for somebody who is about to read all of it. */
  async makeResident(): Promise<void> {
    await this.#bytes.makeLocal()
  }

  /** Takes the file from local disk; its object must exist. Reads go on, from the object. */
  async evict(): Promise<void> {
    assert(!this.isOnlyCopy, 'what is not in object storage stays on disk')
    await this.#bytes.drop()
  }

  #has(flag: LayerFlag): boolean {
    const place = this.#place
    return place ? place.table.has(place.row, flag) : (this.#flags & flag) !== 0
  }

  #set(flag: LayerFlag, isSet: boolean): void {
    if (this.#place) this.#place.table.set(this.#place.row, flag, isSet)
    else this.#flags = isSet ? this.#flags | flag : this.#flags & ~flag
  }

  #forgetIndex(): void {
    this.#index = null
    this.#context.residency?.indexes.remove(this)
  }

  async #load(): Promise<LayerIndex> {
    const { footer, index } = await this.#bytes.readIndex()
    if (crc32(index) !== footer.indexCrc) {
      // The footer was right, so this copy of the index is not.
      if (!this.isResident || this.isOnlyCopy) {
        throw this.#corrupt('the index has a wrong checksum')
      }
      await this.#bytes.drop()
      return this.#load()
    }
    const section = unpack(index, footer.indexCodec, footer.indexRawBytes)
    const { groups, rows, chunks } = footer
    const counts = { groups, rows, chunks }
    const loaded = new LayerIndex(this.id.kind, counts, section, this.#context.slots)
    this.#index = loaded
    this.#context.residency?.indexes.add(this, loaded.sizeBytes)
    return loaded
  }

  /** Neighbouring chunks, grouped so that each group is one read. */
  #runs(chunks: readonly number[], { chunkStart }: IndexColumns): number[][] {
    const [maxBytes, maxGap] = this.isResident
      ? [MERGED_READ_BYTES, 0]
      : [MERGED_OBJECT_BYTES, OBJECT_GAP_BYTES]
    const runs: number[][] = []
    let run: number[] = []
    let runStart = 0
    let runEnd = 0
    for (const chunk of chunks) {
      const start = chunkStart[chunk] as number
      const end = chunkStart[chunk + 1] as number
      if (run.length > 0 && start - runEnd <= maxGap && end - runStart <= maxBytes) {
        run.push(chunk)
      } else {
        run = [chunk]
        runStart = start
        runs.push(run)
      }
      runEnd = end
    }
    return runs
  }

  async #readRun(
    run: readonly number[],
    columns: IndexColumns,
    into: Map<number, Buffer>,
  ): Promise<void> {
    const { chunkStart } = columns
    const first = run[0] as number
    const last = run[run.length - 1] as number
    const start = chunkStart[first] as number
    const length = (chunkStart[last + 1] as number) - start
    const bytes = await this.#bytes.read(start, length)
    for (const chunk of run) {
      const at = (chunkStart[chunk] as number) - start
      const end = (chunkStart[chunk + 1] as number) - start
      const stored = end - at === bytes.length ? bytes : bytes.subarray(at, end)
      const raw = this.#expand(chunk, columns, stored) ?? (await this.#repair(chunk, columns))
      this.#context.cache.add(this.number, chunk, raw)
      into.set(chunk, raw)
    }
  }

  /** Null when the checksum is wrong. */
  #expand(chunk: number, columns: IndexColumns, stored: Buffer): Buffer | null {
    const { chunkCrc, chunkCodec, chunkRaw } = columns
    if (crc32(stored) !== chunkCrc[chunk]) return null
    return unpack(stored, chunkCodec[chunk] as Codec, chunkRaw[chunk] as number)
  }

  /** Reads a damaged chunk from object storage; the bad local file goes. */
  async #repair(chunk: number, columns: IndexColumns): Promise<Buffer> {
    const { chunkStart } = columns
    const start = chunkStart[chunk] as number
    const length = (chunkStart[chunk + 1] as number) - start
    let raw: Buffer | null = null
    let reason = 'its copy in object storage is damaged too'
    try {
      raw = this.#expand(chunk, columns, await this.#bytes.readObject(start, length))
    } catch (error) {
      reason = errorMessage(error)
    }
    if (!raw) {
      throw this.#corrupt(
        `chunk ${chunk} (bytes ${start} to ${start + length}) has a wrong checksum and ${reason}`,
      )
    }
    await this.#bytes.drop()
    return raw
  }

  #corrupt(what: string): ZenithError {
    return new ZenithError('corrupt', `layer ${this.name} is damaged: ${what}`, {
      hint: `Compare ${this.path} with the object ${this.objectName}.`,
    })
  }
}

/** Name of a layer's local file in the folder of its timeline. */
export function layerFileName(entry: LayerIdentity): string {
  return layerKey(entry).replaceAll('/', '.')
}

/**
 * What tells layers of one timeline apart: the name, behind the ids of the shard and of the timeline
 * that it was taken over from when it has them.
 */
export function layerKey(entry: LayerIdentity): string {
  const name = layerName(entry.id)
  const key = entry.origin === null ? name : `${entry.origin}/${name}`
  return entry.splitFrom === undefined ? key : `${entry.splitFrom}/${key}`
}
