import { describe, expect, test } from 'vitest'
import { FSM_NODES_OFFSET, FSM_NON_LEAF_NODES, FSM_SLOTS_PER_PAGE } from '#libs/pg/page.ts'
import { fsmFault } from './folder-diff.ts'

/** A free space map page with room in one slot, and the tree above it. */
function mapPage(slot: number, room: number): Buffer {
  const page = Buffer.alloc(8192)
  let node = FSM_NON_LEAF_NODES + slot
  page[FSM_NODES_OFFSET + node] = room
  while (node > 0) {
    node = Math.floor((node - 1) / 2)
    page[FSM_NODES_OFFSET + node] = room
  }
  return page
}

describe('free space map pages', () => {
  test('zeros and trees are right', () => {
    expect(fsmFault(Buffer.alloc(8192), 2, 0)).toBeNull()
    expect(fsmFault(mapPage(9, 77), 2, 10)).toBeNull()
    expect(fsmFault(mapPage(0, 255), 0, 0)).toBeNull()
  })

  test('a node that is not the larger of its children', () => {
    const page = mapPage(9, 77)
    page[FSM_NODES_OFFSET] = 76
    expect(fsmFault(page, 2, 10)).toMatch(/no tree: node 0 is 76, not 77/)
  })

  test('room beyond the end of the heap, counted over the map pages before', () => {
    expect(fsmFault(mapPage(9, 77), 2, 9)).toMatch(/room in block 9 of a heap of 9 blocks/)
    const slots = FSM_SLOTS_PER_PAGE
    expect(fsmFault(mapPage(5, 1), 3, slots + 6)).toBeNull()
    expect(fsmFault(mapPage(5, 1), 3, slots + 5)).toMatch(`room in block ${slots + 5}`)
    // Behind the lowest pages of one upper page comes the next upper page, then its own.
    expect(fsmFault(mapPage(5, 1), slots + 2, 0)).toBeNull()
    expect(fsmFault(mapPage(0, 1), slots + 3, slots * slots)).toMatch('room in block')
    expect(fsmFault(mapPage(0, 1), slots + 3, slots * slots + 1)).toBeNull()
  })
})
