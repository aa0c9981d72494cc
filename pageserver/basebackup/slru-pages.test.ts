import { describe, expect, test } from 'vitest'
import type { Checkpoint } from '#libs/pg/checkpoint.ts'
import { relationPath, slruPath, twoPhasePath } from './data-folder.ts'
import { neededSlruPages, SlruKind } from './slru-pages.ts'

const needs = (nextXid: number, nextMulti: number, nextMultiOffset: number) =>
  neededSlruPages({ nextXid, nextMulti, nextMultiOffset } as Checkpoint)

describe('SLRU pages that start-up reads', () => {
  test('a fresh cluster: transaction 731, multixact 1, no member', () => {
    expect(needs(731, 1, 0)).toEqual([
      { kind: SlruKind.xact, segment: 0, blocks: 1 },
      { kind: SlruKind.multiOffsets, segment: 0, blocks: 1 },
    ])
  })

  test('a counter that is the first of its page needs none', () => {
    expect(needs(32768 * 5, 2048 * 7, 1636 * 9)).toEqual([])
  })

  test('pages and segments: 32 pages each, the epoch does not count', () => {
    const perSegment = 32768 * 32
    expect(needs(3 * perSegment + 2 * 32768 + 1, 0, 0)).toEqual([
      { kind: SlruKind.xact, segment: 3, blocks: 3 },
    ])
    expect(needs(2 ** 32 + 10, 0, 0)).toEqual([{ kind: SlruKind.xact, segment: 0, blocks: 1 }])
    expect(needs(0, 0, 1636 * 33 + 1)).toEqual([
      { kind: SlruKind.multiMembers, segment: 1, blocks: 2 },
    ])
  })
})

describe('names of files', () => {
  test('as Postgres writes them', () => {
    expect(slruPath(SlruKind.xact, 0)).toBe('pg_xact/0000')
    expect(slruPath(SlruKind.multiMembers, 0x14078)).toBe('pg_multixact/members/14078')
    expect(twoPhasePath(1, 0xabc)).toBe('pg_twophase/0000000100000ABC')
    expect(relationPath(1663, 5, 16384, 0)).toBe('base/5/16384')
    expect(relationPath(1663, 5, 16384, 3)).toBe('base/5/16384_init')
    expect(relationPath(1664, 0, 1260, 2)).toBe('global/1260_vm')
    expect(relationPath(16400, 5, 1, 1)).toBe('pg_tblspc/16400/PG_17_202406281/5/1_fsm')
  })
})
