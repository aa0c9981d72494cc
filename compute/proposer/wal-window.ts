/**
 * The newest WAL of this compute in memory, from which every safekeeper is fed. It holds all that is
 * not committed yet; what is, and is old, is dropped, and a safekeeper that still lacks it is fed
 * from another safekeeper. Bytes are copied once on the way in and sent from where they lie.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'

const SLAB_BYTES = 1024 * 1024
/** Kept although committed, so that a short stall of one safekeeper needs no fetch. */
const KEPT_BYTES = 4 * 1024 * 1024
/** Beyond this the window gives up what is committed, whoever still lacks it. */
const LARGE_BYTES = 32 * 1024 * 1024
/** Beyond this no more WAL is taken from Postgres: too much waits for a quorum. */
const FULL_BYTES = 64 * 1024 * 1024

interface Slab {
  readonly lsn: Lsn
  readonly bytes: Buffer
  used: number
}

export class WalWindow {
  #slabs: Slab[] = []
  #end: Lsn

  constructor(startLsn: Lsn) {
    this.#end = startLsn
  }

  get startLsn(): Lsn {
    return this.#slabs[0]?.lsn ?? this.#end
  }

  get endLsn(): Lsn {
    return this.#end
  }

  get isFull(): boolean {
    return this.#end - this.startLsn >= FULL_BYTES
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
