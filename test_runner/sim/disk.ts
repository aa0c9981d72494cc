/**
 * The disk of one simulated safekeeper: a control file that is replaced whole, and WAL bytes. What was
 * written but not synced is lost in a crash by the sector, in any combination.
 */
import type { Lsn } from '#libs/lsn.ts'
import type { Prng } from './prng.ts'

const SECTOR_BYTES = 512
export const DISK_BYTES = 768 * 1024

interface PendingWrite {
  lsn: Lsn
  bytes: Buffer
}

export class SimDisk {
  readonly #baseLsn: Lsn
  readonly #wal = Buffer.alloc(DISK_BYTES)
  #pending: PendingWrite[] = []
  /** Zeroing from here on is under way. */
  #truncatingAt: Lsn | null = null
  control: Buffer
  /** Replaces `control` when the rename is done; a crash before finds either. */
  #nextControl: Buffer | null = null
  #writtenEnd: Lsn

  constructor(baseLsn: Lsn, control: Buffer) {
    this.#baseLsn = baseLsn
    this.#writtenEnd = baseLsn
    this.control = control
  }

  /** End of the bytes that a crash cannot take: none below is unsynced. */
  get durableEnd(): Lsn {
    return this.#pending[0]?.lsn ?? this.#writtenEnd
  }

  get hasPending(): boolean {
    return this.#pending.length > 0
  }

  get pendingCount(): number {
    return this.#pending.length
  }

  write(lsn: Lsn, bytes: Buffer): void {
    this.#pending.push({ lsn, bytes: Buffer.from(bytes) })
    this.#writtenEnd = lsn + bytes.length
  }

  /** The first `count` pending writes are on disk now; returns where they end. */
  sync(count: number): Lsn {
    const done = this.#pending.splice(0, count)
    for (const write of done) write.bytes.copy(this.#wal, write.lsn - this.#baseLsn)
    const last = done.at(-1) as PendingWrite
    return last.lsn + last.bytes.length
  }

  beginTruncate(lsn: Lsn): void {
    this.#truncatingAt = lsn
  }

  endTruncate(lsn: Lsn): void {
    this.#truncatingAt = null
    this.#pending = []
    this.#writtenEnd = lsn
    this.#wal.fill(0, lsn - this.#baseLsn)
  }

  beginControl(bytes: Buffer): void {
    this.#nextControl = bytes
  }

  endControl(): void {
    if (this.#nextControl) this.control = this.#nextControl
    this.#nextControl = null
  }

  /** Power goes away: unsynced sectors survive or not, one by one. */
  crash(random: Prng): void {
    const keep = random.next()
    for (const write of this.#pending) {
      let offset = 0
      while (offset < write.bytes.length) {
        const at = write.lsn - this.#baseLsn + offset
        const length = Math.min(SECTOR_BYTES - (at % SECTOR_BYTES), write.bytes.length - offset)
        if (random.chance(keep)) write.bytes.copy(this.#wal, at, offset, offset + length)
        offset += length
      }
    }
    this.#pending = []
    if (this.#truncatingAt !== null) {
      const end = this.#writtenEnd - this.#baseLsn
      for (let at = this.#truncatingAt - this.#baseLsn; at < end; ) {
        const length = Math.min(SECTOR_BYTES - (at % SECTOR_BYTES), end - at)
        if (random.chance(keep)) this.#wal.fill(0, at, at + length)
        at += length
      }
      this.#truncatingAt = null
    }
    if (this.#nextControl !== null && random.chance(0.5)) this.control = this.#nextControl
    this.#nextControl = null
  }

  /** Durable bytes, as a view. */
  bytes(from: Lsn, to: Lsn): Buffer {
    return this.#wal.subarray(from - this.#baseLsn, to - this.#baseLsn)
  }

  /** What boot does after the scan found the end of the log: nothing lies behind it. */
  cleanAfter(lsn: Lsn): void {
    this.#wal.fill(0, lsn - this.#baseLsn)
    this.#writtenEnd = lsn
  }

  get capacityEnd(): Lsn {
    return this.#baseLsn + DISK_BYTES
  }
}
