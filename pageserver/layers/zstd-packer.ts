/**
 * Compresses chunks for layer files in a thread of its own. A chunk is filled in memory that both
 * threads see, so that nothing is allocated or copied for it, and this thread spends next to no time
 * on it.
 *
 * The packer thread begins only when there is much to compress. Until then, and when all slots are
 * in use or a chunk is larger than a slot, Node's one-shot function does it on its thread pool.
 */
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { constants, crc32, zstdCompress } from 'node:zlib'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { Codec, MIN_COMPRESSED_BYTES, savesEnough } from './layer-format.ts'
import { PackSlots, SLOT_RAW_BYTES, SLOTS } from './pack-slots.ts'

const compress = promisify(zstdCompress)
const OPTIONS = { params: { [constants.ZSTD_c_compressionLevel]: 1 } }
/** A thread costs some tens of milliseconds, which little work does not earn. */
const THREAD_AFTER_BYTES = 4 * 1024 * 1024
const HEAP_MIB = 64
const SCRIPT = new URL('./zstd-packer-worker.ts', import.meta.url)

/** What is to be stored of a chunk. */
export interface PackedChunk {
  codec: Codec
  /** A view, good until the chunk is released. */
  stored: Buffer
  /** crc32 of `stored`. */
  crc: number
}

/** A chunk to be filled, then packed, then released. */
export interface ChunkToPack {
  readonly raw: Buffer
  pack(): Promise<PackedChunk>
  /** Nobody looks at its bytes any more. */
  release(): void
}

/** Memory for a chunk of so many bytes. */
export function chunkToPack(rawBytes: number): ChunkToPack {
  if (rawBytes <= SLOT_RAW_BYTES && (packer || bytesOnPool >= THREAD_AFTER_BYTES)) {
    packer ??= new Packer()
    const slot = packer.take()
    if (slot !== undefined) return new SlotChunk(packer, slot, rawBytes)
  }
  bytesOnPool += rawBytes
  return new PoolChunk(rawBytes)
}

let packer: Packer | null = null
let bytesOnPool = 0

class PoolChunk implements ChunkToPack {
  readonly raw: Buffer

  constructor(rawBytes: number) {
    this.raw = Buffer.allocUnsafeSlow(rawBytes)
  }

  async pack(): Promise<PackedChunk> {
    const { raw } = this
    if (raw.length >= MIN_COMPRESSED_BYTES) {
      const stored = await compress(raw, OPTIONS)
      if (savesEnough(stored.length, raw.length)) {
        return { codec: Codec.Zstd, stored, crc: crc32(stored) }
      }
    }
    return { codec: Codec.Raw, stored: raw, crc: crc32(raw) }
  }

  release(): void {
    // Garbage collection has it.
  }
}

class SlotChunk implements ChunkToPack {
  readonly raw: Buffer
  readonly #packer: Packer
  readonly #slot: number

  constructor(owner: Packer, slot: number, rawBytes: number) {
    this.#packer = owner
    this.#slot = slot
    this.raw = owner.slots.raw(slot, rawBytes)
  }

  async pack(): Promise<PackedChunk> {
    const { slots } = this.#packer
    const slot = this.#slot
    await this.#packer.run(slot, this.raw.length)
    const crc = slots.crc(slot)
    const storedBytes = slots.storedBytes(slot)
    return storedBytes === 0
      ? { codec: Codec.Raw, stored: this.raw, crc }
      : { codec: Codec.Zstd, stored: slots.stored(slot, storedBytes), crc }
  }

  release(): void {
    this.#packer.give(this.#slot)
  }
}

interface Waiting {
  resolve: () => void
  reject: (error: Error) => void
}

class Packer {
  readonly slots = new PackSlots()
  readonly #worker: Worker
  readonly #free = Array.from({ length: SLOTS }, (_, slot) => slot)
  readonly #waiting = new Map<number, Waiting>()
  #done = 0
  #failure: ZenithError | null = null

  constructor() {
    this.#worker = new Worker(SCRIPT, {
      workerData: this.slots.memory,
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
    })
    this.#worker.unref()
    this.#worker.on('message', () => this.#takeDone())
    this.#worker.on('error', (error) => this.#fail(errorMessage(error)))
    this.#worker.on('exit', () => this.#fail('it ended'))
  }

  /** A free slot, to be given back. */
  take(): number | undefined {
    return this.#free.pop()
  }

  give(slot: number): void {
    this.#free.push(slot)
  }

  /** Resolves when the slot is packed. */
  run(slot: number, rawBytes: number): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure)
    // The process does not end while somebody waits.
    if (this.#waiting.size === 0) this.#worker.ref()
    return new Promise((resolve, reject) => {
      this.#waiting.set(slot, { resolve, reject })
      this.slots.push(slot, rawBytes)
    })
  }

  #takeDone(): void {
    for (const slot of this.slots.doneSince(this.#done)) {
      this.#done = (this.#done + 1) | 0
      this.#waiting.get(slot)?.resolve()
      this.#waiting.delete(slot)
    }
    if (this.#waiting.size === 0) this.#worker.unref()
  }

  /** Who waits fails, and tries again with another thread. */
  #fail(reason: string): void {
    if (packer === this) packer = null
    this.#failure ??= new ZenithError('unavailable', `the packer thread is gone: ${reason}`)
    for (const { reject } of this.#waiting.values()) reject(this.#failure)
    this.#waiting.clear()
  }
}
