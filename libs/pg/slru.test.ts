import { describe, expect, it } from 'vitest'
import {
  CLOG_XACTS_PER_PAGE,
  idPrecedes,
  SLRU,
  slruPagePrecedes,
  slruSegmentIsOld,
  xidPrecedes,
} from './slru.ts'

const CLOG_PAGES = 2 ** 32 / CLOG_XACTS_PER_PAGE

describe('ids that wrap around', () => {
  it('compare modulo 2^32', () => {
    expect(idPrecedes(0xfffffff0, 5)).toBe(true)
    expect(idPrecedes(5, 0xfffffff0)).toBe(false)
    expect(idPrecedes(5, 5)).toBe(false)
    expect(xidPrecedes(2, 0x90000000)).toBe(true)
    expect(xidPrecedes(0xfffffff0, 100)).toBe(true)
  })

  it('order pages, also across the wrap', () => {
    expect(slruPagePrecedes(SLRU.xact, 1, 2)).toBe(true)
    expect(slruPagePrecedes(SLRU.xact, 2, 2)).toBe(false)
    expect(slruPagePrecedes(SLRU.xact, CLOG_PAGES - 1, 3)).toBe(true)
    expect(slruPagePrecedes(SLRU.xact, 3, CLOG_PAGES - 1)).toBe(false)
    expect(slruPagePrecedes(SLRU.multixactMembers, 1, 2)).toBe(true)
  })

  it('drop a segment only when all of its pages are old', () => {
    expect(slruSegmentIsOld(SLRU.xact, 0, 31)).toBe(false)
    expect(slruSegmentIsOld(SLRU.xact, 0, 32)).toBe(true)
    expect(slruSegmentIsOld(SLRU.xact, 1, 32)).toBe(false)
    // The far half of the id space is the future, not the past.
    expect(slruSegmentIsOld(SLRU.xact, CLOG_PAGES / 32 / 2 + 2, 32)).toBe(true)
    expect(slruSegmentIsOld(SLRU.xact, CLOG_PAGES / 32 / 2 - 2, 32)).toBe(false)
  })
})
