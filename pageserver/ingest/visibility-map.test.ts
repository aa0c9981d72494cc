import { beforeEach, describe, expect, it } from 'vitest'
import { HEAP_BLOCKS_PER_VM_PAGE } from '#libs/pg/page.ts'
import { HEAP2_INFO, HEAP_INFO, RMGR, SMGR_INFO, VM_FORK } from '#libs/wal/format.ts'
import { type BuiltBlock, words } from '../../test_runner/fixtures/wal-builder.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { BuiltIngest, DB, heapBlock, REL, SPC } from '../../test_runner/fixtures/built-ingest.ts'

const EMPTY = Buffer.alloc(0)

let built: BuiltIngest

beforeEach(() => {
  built = new BuiltIngest()
})

describe('visibility map', () => {
  const visible = (heap: number, bits = 3) => {
    const map = Math.floor(heap / HEAP_BLOCKS_PER_VM_PAGE)
    return built.record(RMGR.HEAP2, HEAP2_INFO.VISIBLE, Buffer.from([0, 0, 0, 0, bits]), [
      heapBlock(map, { id: 0, fork: VM_FORK, data: EMPTY }),
      heapBlock(heap, { id: 1, data: EMPTY }),
    ])
  }
  const update = (flags: number, newBlock: number, oldBlock: number, more: BuiltBlock[] = []) => {
    const main = Buffer.alloc(14)
    main[7] = flags
    const old = oldBlock === newBlock ? [] : [heapBlock(oldBlock, { id: 1, data: EMPTY })]
    return built.record(RMGR.HEAP, HEAP_INFO.UPDATE, main, [heapBlock(newBlock), ...old, ...more])
  }
  const bits = (heap: number) => {
    const map = Math.floor(heap / HEAP_BLOCKS_PER_VM_PAGE)
    const page = built.timeline.page(
      built.slot(KeyClass.RelBlock, SPC, DB, REL, VM_FORK),
      map,
    ) as Buffer
    const within = heap % HEAP_BLOCKS_PER_VM_PAGE
    return ((page[24 + (within >> 2)] as number) >> ((within & 3) * 2)) & 3
  }

  it('is changed by operations, never by records', async () => {
    visible(4)
    built.insert(4, { flags: 1 })
    visible(5)
    await built.ingest()
    expect(bits(4)).toBe(0)
    expect(bits(5)).toBe(3)
    expect(
      built.kinds(KeyClass.RelBlock, 0, SPC, DB, REL, VM_FORK).map(([, kind]) => kind),
    ).toEqual([ValueKind.ZeroPage, ValueKind.NativeOp, ValueKind.NativeOp, ValueKind.NativeOp])
  })

  it('is left alone when there is no map page for the block', async () => {
    built.insert(2, { flags: 1 })
    visible(1)
    built.insert(HEAP_BLOCKS_PER_VM_PAGE + 1, { init: true, flags: 1 })
    await built.ingest()
    expect(built.size(VM_FORK)).toBe(1)
  })

  it('clears both pages of an update in one operation', async () => {
    for (const heap of [1, 2, 3]) visible(heap)
    update(3, 1, 2)
    await built.ingest()
    expect([bits(1), bits(2), bits(3)]).toEqual([0, 0, 3])
  })

  it('follows registered map pages, as newer minor versions log them', async () => {
    const far = HEAP_BLOCKS_PER_VM_PAGE + 7
    for (const heap of [1, 2, 3, far]) visible(heap)
    const map = (block: number, id: number) => heapBlock(block, { id, fork: VM_FORK, data: EMPTY })
    update(3, 1, 2, [map(0, 2)])
    update(3, 3, far, [map(0, 2), map(1, 3)])
    await built.ingest()
    expect([bits(1), bits(2), bits(3), bits(far)]).toEqual([0, 0, 0, 0])
  })

  it('only loses its frozen bit to a lock', async () => {
    visible(6)
    const main = Buffer.alloc(8)
    main[7] = 1
    built.record(RMGR.HEAP, HEAP_INFO.LOCK, main, [heapBlock(6, { data: EMPTY })])
    await built.ingest()
    expect(bits(6)).toBe(1)
  })

  it('loses the bits of truncated blocks inside its last page', async () => {
    for (const heap of [1, 9, 10, HEAP_BLOCKS_PER_VM_PAGE + 1]) visible(heap)
    built.record(RMGR.STORAGE, SMGR_INFO.TRUNCATE, words(10, SPC, DB, REL, 7))
    await built.ingest()
    expect([bits(1), bits(9), bits(10)]).toEqual([3, 3, 0])
    expect([built.size(), built.size(VM_FORK)]).toEqual([10, 1])
  })
})
