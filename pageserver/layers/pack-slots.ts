/**
 * Memory in which a thread hands chunks to its packer thread and gets them back:
 *
 *   head i32 | done i32 | told i32 | zero i32 | queue i32 x SLOTS |
 *   (raw bytes i32, stored bytes i32, crc32 u32, zero) x SLOTS | (raw | stored) x SLOTS
 *
 * `head` counts chunks handed over, `done` those that are ready, in the same order; the queue is a
 * ring of slot numbers. Each count is written by one thread only, and a slot's bytes belong to
 * whoever must act next, so there are no locks.
 */

/** Chunks handed over and not yet given back, at most; a power of two, since the counts wrap. */
export const SLOTS = 16
/** Most bytes of a chunk that has room in a slot. */
export const SLOT_RAW_BYTES = 96 * 1024
/** What zstd may make of random bytes. */
const SLOT_STORED_BYTES = SLOT_RAW_BYTES + 1024

const HEAD = 0
const DONE = 1
const TOLD = 2
const QUEUE = 4
const RESULTS = QUEUE + SLOTS
const RESULT_WORDS = 4
const DATA_BYTES = 4096
const SLOT_BYTES = SLOT_RAW_BYTES + SLOT_STORED_BYTES

export class PackSlots {
  readonly memory: SharedArrayBuffer
  readonly #words: Int32Array

  constructor(memory = new SharedArrayBuffer(DATA_BYTES + SLOTS * SLOT_BYTES)) {
    this.memory = memory
    this.#words = new Int32Array(memory, 0, DATA_BYTES / 4)
  }

  /** The bytes of a slot before they are packed; aligned to 8. */
  raw(slot: number, length = SLOT_RAW_BYTES): Buffer {
    return Buffer.from(this.memory, DATA_BYTES + slot * SLOT_BYTES, length)
  }

  /** The bytes of a slot after they were packed. */
  stored(slot: number, length = SLOT_STORED_BYTES): Buffer {
    return Buffer.from(this.memory, DATA_BYTES + slot * SLOT_BYTES + SLOT_RAW_BYTES, length)
  }

  rawBytes(slot: number): number {
    return this.#words[RESULTS + slot * RESULT_WORDS] as number
  }

  /** 0 when the raw bytes are to be stored as they are. */
  storedBytes(slot: number): number {
    return this.#words[RESULTS + slot * RESULT_WORDS + 1] as number
  }

  /** Of what is to be stored. */
  crc(slot: number): number {
    return (this.#words[RESULTS + slot * RESULT_WORDS + 2] as number) >>> 0
  }

  /** Hands a filled slot to the packer. */
  push(slot: number, rawBytes: number): void {
    const head = this.#words[HEAD] as number
    this.#words[RESULTS + slot * RESULT_WORDS] = rawBytes
    this.#words[QUEUE + (head & (SLOTS - 1))] = slot
    Atomics.store(this.#words, HEAD, (head + 1) | 0)
    Atomics.notify(this.#words, HEAD)
  }

  /** For the packer: waits for the next slot; it is done with `finish`. */
  next(): number {
    const done = this.#words[DONE] as number
    while (Atomics.load(this.#words, HEAD) === done) Atomics.wait(this.#words, HEAD, done)
    return this.#words[QUEUE + (done & (SLOTS - 1))] as number
  }

  /** For the packer: true when the other thread must be told that something is done. */
  finish(slot: number, storedBytes: number, crc: number): boolean {
    this.#words[RESULTS + slot * RESULT_WORDS + 1] = storedBytes
    this.#words[RESULTS + slot * RESULT_WORDS + 2] = crc
    Atomics.add(this.#words, DONE, 1)
    return Atomics.exchange(this.#words, TOLD, 1) === 0
  }

  /** Slots done since the count `from`, in order; the count now is `from` + as many. */
  doneSince(from: number): number[] {
    Atomics.store(this.#words, TOLD, 0)
    const slots: number[] = []
    for (let at = from; at !== Atomics.load(this.#words, DONE); at = (at + 1) | 0) {
      slots.push(this.#words[QUEUE + (at & (SLOTS - 1))] as number)
    }
    return slots
  }
}
