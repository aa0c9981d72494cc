import { zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type BuiltBlock,
  buildPayload,
  buildRecord,
} from '../../test_runner/fixtures/wal-builder.ts'
import { ZenithError } from '../errors.ts'
import { DecodedRecord } from './decoded-record.ts'
import { BKPIMAGE_COMPRESS_ZSTD } from './format.ts'
import { restoreImage } from './page-image.ts'

function decode(record: Buffer): DecodedRecord {
  const decoded = new DecodedRecord()
  const view = new DataView(record.buffer, record.byteOffset, record.length)
  decoded.decode(record, view, 0, record.length, 0x1000)
  return decoded
}

const blocks = fc
  .array(
    fc.record({
      spc: fc.nat(),
      db: fc.nat(),
      rel: fc.nat(),
      fork: fc.integer({ min: 0, max: 3 }),
      block: fc.integer({ min: 0, max: 0xfffffffe }),
      gap: fc.nat(3),
      sameRel: fc.boolean(),
      willInit: fc.boolean(),
      data: fc.uint8Array({ maxLength: 300 }),
      image: fc.option(fc.record({ at: fc.integer({ min: 1, max: 4000 }), apply: fc.boolean() })),
    }),
    { maxLength: 8 },
  )
  .map((list) => {
    let id = -1
    return list.map((entry, index): BuiltBlock => {
      id += 1 + entry.gap
      const { at, apply } = entry.image ?? { at: 0, apply: false }
      return {
        id,
        spc: entry.spc,
        db: entry.db,
        rel: entry.rel,
        fork: entry.fork,
        block: entry.block,
        sameRel: entry.sameRel && index > 0,
        willInit: entry.willInit,
        data: Buffer.from(entry.data),
        ...(at > 0 && {
          image: { bytes: Buffer.alloc(8192 - 100, id), holeOffset: at, holeLength: 100, apply },
        }),
      }
    })
  })

describe('DecodedRecord', () => {
  it('finds every part of a record', () => {
    fc.assert(
      fc.property(
        blocks,
        fc.uint8Array({ maxLength: 600 }),
        fc.nat(60000),
        (built, main, origin) => {
          const record = buildRecord(
            10,
            0x20,
            77,
            buildPayload({ blocks: built, main: Buffer.from(main), originId: origin }),
            0,
          )
          const decoded = decode(record)
          expect([decoded.rmid, decoded.info, decoded.xid]).toEqual([10, 0x20, 77])
          expect(decoded.originId).toBe(origin)
          const mainAt = decoded.mainOffset
          expect(record.subarray(mainAt, mainAt + decoded.mainLength).equals(main)).toBe(true)
          expect(mainAt + decoded.mainLength).toBe(record.length)
          expect(decoded.blockCount).toBe(built.length)
          let relation = [0, 0, 0]
          for (const [index, block] of built.entries()) {
            if (!block.sameRel) relation = [block.spc, block.db, block.rel]
            expect(decoded.indexOfBlock(block.id)).toBe(index)
            expect([decoded.spc[index], decoded.db[index], decoded.rel[index]]).toEqual(relation)
            expect([decoded.fork[index], decoded.block[index]]).toEqual([block.fork, block.block])
            expect(decoded.willInit(index)).toBe(block.willInit)
            const at = decoded.dataOffset[index] as number
            const data = record.subarray(at, at + (decoded.dataLength[index] as number))
            expect(data.equals(block.data as Buffer)).toBe(true)
            expect(decoded.appliesImage(index)).toBe(block.image?.apply ?? false)
            if (block.image) {
              const page = Buffer.alloc(8192, 0xff)
              restoreImage(decoded, index, page)
              const hole = block.image.holeOffset as number
              const expected = Buffer.alloc(8192, block.id).fill(0, hole, hole + 100)
              expect(page.equals(expected)).toBe(true)
            }
          }
        },
      ),
    )
  })

  it('answers damage with a typed error or another record, never otherwise', () => {
    fc.assert(
      fc.property(
        blocks,
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        (built, damage) => {
          const record = buildRecord(10, 0, 1, buildPayload({ blocks: built }), 0)
          if (record.length === 24) return
          for (const [at, value] of damage) record[24 + (at % (record.length - 24))] = value
          try {
            const decoded = decode(record)
            for (let index = 0; index < decoded.blockCount; index += 1) {
              if (decoded.imageLength[index] !== 0) {
                restoreImage(decoded, index, Buffer.alloc(8192))
              }
            }
          } catch (error) {
            expect(error).toBeInstanceOf(ZenithError)
          }
        },
      ),
      { numRuns: 3000 },
    )
  })

  it('restores a zstd image and refuses a damaged one', () => {
    const page = Buffer.alloc(8192, 3)
    page.fill(0, 200, 1000)
    const holed = Buffer.concat([page.subarray(0, 200), page.subarray(1000)])
    const image = {
      bytes: zstdCompressSync(holed),
      holeOffset: 200,
      holeLength: 800,
      compression: BKPIMAGE_COMPRESS_ZSTD,
    }
    const block = { id: 0, spc: 1, db: 2, rel: 3, block: 4, image }
    const decoded = decode(buildRecord(0, 0xb0, 0, buildPayload({ blocks: [block] }), 0))
    const restored = Buffer.alloc(8192)
    restoreImage(decoded, 0, restored)
    expect(restored.equals(page)).toBe(true)
    image.bytes[0] = 0
    const damaged = decode(buildRecord(0, 0xb0, 0, buildPayload({ blocks: [block] }), 0))
    expect(() => restoreImage(damaged, 0, restored)).toThrow(/does not decompress/)
  })
})
