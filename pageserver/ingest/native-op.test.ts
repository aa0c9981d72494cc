import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  FSM_NODES_OFFSET,
  FSM_NON_LEAF_NODES,
  FSM_SLOTS_PER_PAGE,
  HEAP_BLOCKS_PER_VM_PAGE,
  initPage,
  PAGE_SIZE,
  pageLsn,
  VM_ALL_FROZEN,
  VM_VALID_BITS,
} from '#libs/pg/page.ts'
import { CLOG_XACTS_PER_PAGE, memberFlagOffset, memberXidOffset } from '#libs/pg/slru.ts'
import { applyNativeOp, NativeOpWriter } from './native-op.ts'

function apply(page: Buffer, write: (op: NativeOpWriter) => void, lsn = 0x1000): Buffer {
  const op = new NativeOpWriter()
  write(op)
  applyNativeOp(page, op.buffer.subarray(0, op.length), lsn)
  return page
}

function vmBits(page: Buffer, block: number): number {
  return ((page[24 + (block >> 2)] as number) >> ((block & 3) * 2)) & 3
}

const heapBlocks = fc.integer({ min: 0, max: HEAP_BLOCKS_PER_VM_PAGE - 1 })

describe('visibility map operations', () => {
  it('set and clear exactly the bits named', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(heapBlocks, fc.constantFrom('set', 'clear', 'unfreeze')), {
          maxLength: 60,
        }),
        heapBlocks,
        (steps, cut) => {
          const page = Buffer.alloc(PAGE_SIZE)
          const model = new Map<number, number>()
          for (const [block, step] of steps) {
            if (step === 'set') {
              apply(page, (op) => op.vmSet(VM_VALID_BITS, block))
              model.set(block, 3)
            } else {
              const mask = step === 'clear' ? VM_VALID_BITS : VM_ALL_FROZEN
              apply(page, (op) => op.vmClear(mask, block))
              model.set(block, (model.get(block) ?? 0) & ~mask)
            }
          }
          for (const [block, bits] of model) expect(vmBits(page, block)).toBe(bits)
          apply(page, (op) => op.vmTruncate(cut))
          for (const [block, bits] of model) {
            expect(vmBits(page, block)).toBe(block < cut ? bits : 0)
          }
        },
      ),
    )
  })

  it('make an empty page of a new one, and set the LSN only on a change', () => {
    const page = apply(Buffer.alloc(PAGE_SIZE), (op) => op.vmSet(1, 7), 0x5000)
    expect(page.readUInt16LE(18)).toBe(PAGE_SIZE | 4)
    expect(pageLsn(page)).toBe(0x5000)
    apply(page, (op) => op.vmSet(1, 7), 0x6000)
    apply(page, (op) => op.vmClear(3, 8, 9), 0x6000)
    expect(pageLsn(page)).toBe(0x5000)
    apply(page, (op) => op.vmClear(3, 8, 7), 0x7000)
    expect(pageLsn(page)).toBe(0x7000)
    expect(vmBits(page, 7)).toBe(0)
  })
})

describe('free space map truncation', () => {
  it('clears slots from the first on and rebuilds the tree', () => {
    const page = Buffer.alloc(PAGE_SIZE)
    initPage(page)
    for (let slot = 0; slot < FSM_SLOTS_PER_PAGE; slot += 1) {
      page[FSM_NODES_OFFSET + FSM_NON_LEAF_NODES + slot] = slot % 200
    }
    apply(page, (op) => op.fsmTruncate(150))
    const leaf = FSM_NODES_OFFSET + FSM_NON_LEAF_NODES
    expect(page[leaf + 149]).toBe(149)
    expect(page.subarray(leaf + 150).every((byte) => byte === 0)).toBe(true)
    expect(page[FSM_NODES_OFFSET]).toBe(149)
  })
})

describe('SLRU operations', () => {
  it('set transaction status and leave neighbours alone', () => {
    const entries = fc.uniqueArray(fc.integer({ min: 0, max: CLOG_XACTS_PER_PAGE - 1 }))
    fc.assert(
      fc.property(entries, entries, (committed, aborted) => {
        const page = Buffer.alloc(PAGE_SIZE)
        apply(page, (op) => op.clogSet(1, committed, committed.length))
        apply(page, (op) => op.clogSet(2, aborted, aborted.length))
        const status = (entry: number) => ((page[entry >> 2] as number) >> ((entry & 3) * 2)) & 3
        for (const entry of committed) expect(status(entry)).toBe(aborted.includes(entry) ? 2 : 1)
        for (const entry of aborted) expect(status(entry)).toBe(2)
      }),
    )
  })

  it('set multixact offsets, members and commit times', () => {
    const page = Buffer.alloc(PAGE_SIZE)
    apply(page, (op) => op.offsetsSetPair(2046, 77, 80))
    expect([page.readUInt32LE(2046 * 4), page.readUInt32LE(2047 * 4)]).toEqual([77, 80])

    const members = Buffer.alloc(16)
    members.writeUInt32LE(500, 0)
    members.writeUInt32LE(3, 4)
    members.writeUInt32LE(501, 8)
    members.writeUInt32LE(5, 12)
    const first = 1636 * 9 + 3
    const memberPage = apply(Buffer.alloc(PAGE_SIZE), (op) => op.membersSet(first, members, 0, 2))
    expect(memberPage.readUInt32LE(memberXidOffset(first))).toBe(500)
    expect(memberPage.readUInt32LE(memberXidOffset(first + 1))).toBe(501)
    expect(memberPage[memberFlagOffset(first + 1)]).toBe(5)

    const time = Buffer.alloc(8, 9)
    const times = apply(Buffer.alloc(PAGE_SIZE), (op) => op.commitTsSet(258, time, 0, [818], 1))
    expect(times.subarray(8180, 8190)).toEqual(Buffer.from([9, 9, 9, 9, 9, 9, 9, 9, 2, 1]))
  })

  it('refuse an unknown operation', () => {
    expect(() => applyNativeOp(Buffer.alloc(PAGE_SIZE), Buffer.from([99, 0]), 0)).toThrow(
      /page operation 99 does not exist/,
    )
  })
})
