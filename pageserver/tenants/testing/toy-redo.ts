/**
 * A redo for tests: applying a record mixes its bytes into a checksum kept in the page, so that a
 * lost, doubled or reordered record shows. Native operations do the same with another seed.
 *
 *   0 LSN f64 | 8 checksum u32 | 12 records applied u32 | 16.. last 64 bytes of the record
 */
import { crc32 } from 'node:zlib'
import { PAGE_SIZE } from '../../keyspace/key-class.ts'
import type { Appliers } from '../../read/reconstruct.ts'

function mix(page: Buffer, bytes: Buffer, lsn: number, seed: number): void {
  page.writeDoubleLE(lsn, 0)
  page.writeUInt32LE(crc32(bytes, (page.readUInt32LE(8) ^ seed) >>> 0), 8)
  page.writeUInt32LE((page.readUInt32LE(12) + 1) >>> 0, 12)
  bytes.copy(page, 16, 0, Math.min(64, bytes.length))
}

export function toyRecord(page: Buffer, record: Buffer, lsn: number): void {
  mix(page, record, lsn, 0x5eed)
}

export function toyNativeOp(page: Buffer, op: Buffer, lsn: number): void {
  mix(page, op, lsn, 0x0b)
}

export interface ToyRedo extends Appliers {
  /** Most records that one call brought. */
  longestChain: number
  calls: number
}

export function toyRedo(): ToyRedo {
  const toy: ToyRedo = {
    longestChain: 0,
    calls: 0,
    redo: {
      async apply(_tag, base, endLsns, records) {
        toy.calls++
        toy.longestChain = Math.max(toy.longestChain, records.length)
        await Promise.resolve()
        const page = base ? Buffer.from(base) : Buffer.alloc(PAGE_SIZE)
        for (const [index, record] of records.entries()) {
          toyRecord(page, record, endLsns[index] as number)
        }
        return page
      },
    },
    applyNativeOp: toyNativeOp,
  }
  return toy
}
