/**
 * The newest WAL of one timeline in memory: where received bytes are copied once, written to disk
 * from, and streamed to readers from while they are still recent. Memory is bounded by what is not
 * yet durable plus `KEPT_BYTES`.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'

const SLAB_BYTES = 256 * 1024
const KEPT_BYTES = 4 * 1024 * 1024

interface Slab {
  readonly lsn: Lsn
  readonly bytes: Buffer
  used: number
  /** No more bytes go here: what lies behind `used` may still be read by a socket. */
  sealed: boolean
}

export class WalTail {
  #slabs: Slab[] = []
  #end: Lsn

  constructor(endLsn: Lsn) {
    this.#end = endLsn
  }

  get startLsn(): Lsn {
    return this.#slabs[0]?.lsn ?? this.#end
  }

  get endLsn(): Lsn {
    return this.#end
  }

  /** Copies bytes that continue the log. */
  append(wal: Buffer): void {
    let offset = 0
    while (offset < wal.length) {
      let slab = this.#slabs.at(-1)
      if (slab === undefined || slab.sealed || slab.used === slab.bytes.length) {
        slab = {
          lsn: this.#end,
          bytes: Buffer.allocUnsafeSlow(SLAB_BYTES),
          used: 0,
          sealed: false,
        }
        this.#slabs.push(slab)
      }
      const taken = wal.copy(slab.bytes, slab.used, offset)
      slab.used += taken
      offset += taken
      this.#end += taken
    }
  }

  /** The longest run of bytes at `lsn` that lies in one piece, up to `endLsn`; null when not here. */
  view(lsn: Lsn, endLsn: Lsn): Buffer | null {
    if (lsn < this.startLsn || lsn >= this.#end) return null
    for (let index = this.#slabs.length - 1; index >= 0; index -= 1) {
      const slab = this.#slabs[index] as Slab
      if (slab.lsn > lsn) continue
      const from = lsn - slab.lsn
      return slab.bytes.subarray(from, Math.min(slab.used, endLsn - slab.lsn))
    }
    return null
  }

  /** The bytes [startLsn, endLsn) as a list of pieces; all of them must be here. */
  pieces(startLsn: Lsn, endLsn: Lsn): Buffer[] {
    const pieces: Buffer[] = []
    for (let lsn = startLsn; lsn < endLsn; ) {
      const piece = this.view(lsn, endLsn)
      assert(piece !== null && piece.length > 0, 'WAL that is not durable is in memory')
      pieces.push(piece)
      lsn += piece.length
    }
    return pieces
  }

  /** Forgets old slabs, none that ends above `durableLsn`. */
  trim(durableLsn: Lsn, keptBytes: number = KEPT_BYTES): void {
    while (this.#slabs.length > 0) {
      const first = this.#slabs[0] as Slab
      const end = first.lsn + first.used
      if (end > durableLsn || this.#end - end < keptBytes) return
      this.#slabs.shift()
    }
  }

  /** Forgets everything at and above `lsn`; new bytes go to fresh memory. */
  cut(lsn: Lsn): void {
    this.#slabs = this.#slabs.filter((slab) => slab.lsn < lsn)
    const last = this.#slabs.at(-1)
    if (last) {
      last.used = Math.min(last.used, lsn - last.lsn)
      last.sealed = true
    }
    this.#end = lsn
  }
}
