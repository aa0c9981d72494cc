/**
 * Which SLRU pages a server reads while it starts: the page that holds the next transaction, the
 * next multixact and the next multixact member (TrimCLOG, TrimMultiXact). They must exist in the
 * backup even if nothing was ever written to them; a missing one would be a fatal error.
 */
import type { Checkpoint } from '#libs/pg/checkpoint.ts'
import { SLRU_PAGES_PER_SEGMENT } from '#libs/protocol/page-stream.ts'

export const SlruKind = { xact: 0, multiOffsets: 1, multiMembers: 2, commitTs: 3 } as const

/** Two status bits per transaction. */
const XACTS_PER_PAGE = 8192 * 4
const OFFSETS_PER_PAGE = 8192 / 4
/** 409 groups of 4 members and their 4 flag bytes. */
const MEMBERS_PER_PAGE = 409 * 4
const TWO_32 = 4294967296

export interface SlruNeed {
  kind: number
  segment: number
  /** Pages that the segment must have at least. */
  blocks: number
}

/** The segments, and how long each must be. A counter that is first on its page needs no page. */
export function neededSlruPages(checkpoint: Checkpoint): SlruNeed[] {
  const counters: [number, number, number][] = [
    [SlruKind.xact, checkpoint.nextXid % TWO_32, XACTS_PER_PAGE],
    [SlruKind.multiOffsets, checkpoint.nextMulti, OFFSETS_PER_PAGE],
    [SlruKind.multiMembers, checkpoint.nextMultiOffset, MEMBERS_PER_PAGE],
  ]
  const needs: SlruNeed[] = []
  for (const [kind, counter, perPage] of counters) {
    if (counter % perPage === 0) continue
    const page = Math.floor(counter / perPage)
    const segment = Math.floor(page / SLRU_PAGES_PER_SEGMENT)
    needs.push({ kind, segment, blocks: (page % SLRU_PAGES_PER_SEGMENT) + 1 })
  }
  return needs
}
