/**
 * The file in which the supervisor tells the backends of its Postgres how far the page server is and
 * how large the cluster, and they tell it how long writers had to sleep for that. Format: `docs/formats/progress-file.md`.
 *
 * Backends have it mapped, so what is told costs one small write here and a few loads there, and no
 * connection, query or wake-up.
 */
import { chownSync, closeSync, openSync, readSync, writeSync } from 'node:fs'
import type { Lsn } from '#libs/lsn.ts'
import type { ClusterSize, ShardPositions } from '#libs/protocol/shard-feedbacks.ts'
import { runAs } from '#libs/system-user.ts'

/** Name within the data folder. */
export const PROGRESS_FILE_NAME = 'zenith_progress'

const FILE_BYTES = 4096
const MAGIC = 0x4752505a
const VERSION = 1
const WORDS_AT = 8
const POSITIONS = 3
const WORDS = 7
const SLEPT_AT = 64
const SLEPT_BYTES = 24
const CHECK = 0x5a65_6e69_7468_5052n

/** What writers of this compute slept since it started. */
export interface BackpressureFigures {
  sleeps: number
  sleptUs: number
  /** Some position is further behind than its limit allows. */
  limitExceeded: boolean
}

export class ProgressFile {
  readonly #descriptor: number
  readonly #words = Buffer.alloc(8 * WORDS)
  readonly #slept = Buffer.alloc(SLEPT_BYTES)

  /** Makes the file anew; Postgres must not be running yet. */
  constructor(path: string) {
    this.#descriptor = openSync(path, 'w+', 0o600)
    const bytes = Buffer.alloc(FILE_BYTES)
    bytes.writeUInt32LE(MAGIC, 0)
    bytes.writeUInt32LE(VERSION, 4)
    writeSync(this.#descriptor, bytes)
    this.#write([0, 0, 0], [0, 0])
    const user = runAs()
    if (user !== null) chownSync(path, user.uid, user.gid)
  }

  /** Tells the backends the positions of the slowest shard, and the size of the cluster if known. */
  tell(positions: ShardPositions, size: ClusterSize | null): void {
    const { lastReceivedLsn, diskConsistentLsn, remoteConsistentLsn } = positions
    const { bytes, lsn } = size ?? { bytes: 0, lsn: 0 }
    this.#write([lastReceivedLsn, diskConsistentLsn, remoteConsistentLsn], [bytes, lsn])
  }

  figures(): BackpressureFigures {
    readSync(this.#descriptor, this.#slept, 0, SLEPT_BYTES, SLEPT_AT)
    return {
      sleeps: Number(this.#slept.readBigUInt64LE(0)),
      sleptUs: Number(this.#slept.readBigUInt64LE(8)),
      limitExceeded: this.#slept.readBigUInt64LE(16) === 1n,
    }
  }

  close(): void {
    closeSync(this.#descriptor)
  }

  /** One call for all, so that a reader hardly ever sees a part of it; check words tell if it does. */
  #write(positions: readonly [Lsn, Lsn, Lsn], size: readonly [bytes: number, lsn: Lsn]): void {
    this.#put(positions, 0)
    this.#put(size, POSITIONS + 1)
    writeSync(this.#descriptor, this.#words, 0, this.#words.length, WORDS_AT)
  }

  /** Words from this one on, and their check word. */
  #put(words: readonly number[], first: number): void {
    let check = CHECK
    for (const [index, word] of words.entries()) {
      const value = BigInt(word)
      this.#words.writeBigUInt64LE(value, (first + index) * 8)
      check ^= value
    }
    this.#words.writeBigUInt64LE(check, (first + words.length) * 8)
  }
}
