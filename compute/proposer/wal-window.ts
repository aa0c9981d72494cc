/**
 * The newest WAL of this compute in memory, from which every safekeeper is fed. It holds all that is
 * not committed yet; what is, and is old, is dropped, and a safekeeper that still lacks it is fed
 * from another safekeeper. Bytes are copied once on the way in and sent from where they lie.
 */
import { assert } from '#libs/errors.ts'
import { alignLsn, type Lsn, skipWalHeader, WAL_PAGE_SIZE, walPageOffset } from '#libs/lsn.ts'
import { MAX_RECORD_SIZE, RECORD_HEADER_SIZE } from '#libs/wal/format.ts'

const SLAB_BYTES = 1024 * 1024
/** Kept although committed, so that a short stall of one safekeeper needs no fetch. */
const KEPT_BYTES = 4 * 1024 * 1024
/** Beyond this the window gives up what is committed, whoever still lacks it. */
const LARGE_BYTES = 32 * 1024 * 1024
/** Beyond this no more WAL is taken from Postgres, but for the rest of a record. */
const FULL_BYTES = 64 * 1024 * 1024

interface Slab {
  readonly lsn: Lsn
  readonly bytes: Buffer
  used: number
}

export class WalWindow {
  #slabs: Slab[] = []
  #end: Lsn
  /** The record that was looked at last: where it begins, before any page header, and where it ends. */
  #record: { startLsn: Lsn; endLsn: Lsn } | null = null

  constructor(startLsn: Lsn) {
    this.#end = startLsn
  }

  get startLsn(): Lsn {
    return this.#slabs[0]?.lsn ?? this.#end
  }

  get endLsn(): Lsn {
    return this.#end
  }

  /**
   * Whether too much waits for a quorum, so that no more is to be taken in. The first record that is
   * not committed is always taken in as a whole, however large it is: safekeepers acknowledge whole
   * records only, so that its rest is what they, and we, wait for. `commitLsn` is where a record ends.
   */
  isFull(commitLsn: Lsn): boolean {
    return this.#end - this.startLsn >= FULL_BYTES && this.#end >= this.#recordEnd(commitLsn)
  }

  append(wal: Buffer): void {
    let offset = 0
    while (offset < wal.length) {
      let slab = this.#slabs.at(-1)
      if (slab === undefined || slab.used === slab.bytes.length) {
        slab = { lsn: this.#end, bytes: Buffer.allocUnsafeSlow(SLAB_BYTES), used: 0 }
        this.#slabs.push(slab)
      }
      const taken = wal.copy(slab.bytes, slab.used, offset)
      slab.used += taken
      offset += taken
      this.#end += taken
    }
  }

  /** The bytes [beginLsn, endLsn) where they lie: one piece, two across slabs, none for an empty range. */
  pieces(beginLsn: Lsn, endLsn: Lsn): Buffer[] {
    if (beginLsn === endLsn) return []
    assert(beginLsn >= this.startLsn && endLsn <= this.#end, 'the range is inside the window')
    const pieces: Buffer[] = []
    let index = this.#slabs.length - 1
    while (index > 0 && (this.#slabs[index] as Slab).lsn > beginLsn) index -= 1
    for (let lsn = beginLsn; lsn < endLsn; index += 1) {
      const slab = this.#slabs[index] as Slab
      const piece = slab.bytes.subarray(lsn - slab.lsn, Math.min(slab.used, endLsn - slab.lsn))
      pieces.push(piece)
      lsn += piece.length
    }
    return pieces
  }

  /** Where the record that follows `lsn` ends, with its padding; `lsn` itself when that cannot be told. */
  #recordEnd(lsn: Lsn): Lsn {
    if (this.#record?.startLsn === lsn) return this.#record.endLsn
    const first = skipWalHeader(alignLsn(lsn))
    if (lsn < this.startLsn || first + RECORD_HEADER_SIZE > this.#end) return lsn
    // xl_tot_len, the first word of a record.
    const length = Buffer.concat(this.pieces(first, first + 4)).readUInt32LE()
    if (length < RECORD_HEADER_SIZE || length > MAX_RECORD_SIZE) return lsn
    this.#record = { startLsn: lsn, endLsn: alignLsn(lsnAfter(first, length)) }
    return this.#record.endLsn
  }

  /**
   * Drops what is committed and not needed: nothing above `commitLsn`, and while the window is small
   * nothing that `lowestSentLsn`, the slowest streaming safekeeper, still has to be sent.
   */
  trim(commitLsn: Lsn, lowestSentLsn: Lsn | null): void {
    while (this.#slabs.length > 1) {
      const first = this.#slabs[0] as Slab
      const end = first.lsn + first.used
      const size = this.#end - first.lsn
      if (end > commitLsn || this.#end - end < KEPT_BYTES) return
      if (size < LARGE_BYTES && lowestSentLsn !== null && end > lowestSentLsn) return
      this.#slabs.shift()
    }
  }
}

/** The position behind `length` bytes of a record that begins at `lsn`; page headers lie between them. */
function lsnAfter(lsn: Lsn, length: number): Lsn {
  let end = lsn
  for (let left = length; left > 0; ) {
    end = skipWalHeader(end)
    const taken = Math.min(left, WAL_PAGE_SIZE - walPageOffset(end))
    end += taken
    left -= taken
  }
  return end
}
