/**
 * Layout of the SLRU areas (pg_xact, pg_multixact, pg_commit_ts): how ids map to pages, and which
 * page is older when the ids wrap around at 2^32. Follows clog.c, multixact.c, commit_ts.c, slru.c.
 */
export const SLRU = { xact: 0, multixactOffsets: 1, multixactMembers: 2, commitTs: 3 } as const

export const SLRU_SEGMENT_PAGES = 32
export const CLOG_XACTS_PER_PAGE = 8192 * 4
export const MULTIXACT_OFFSETS_PER_PAGE = 8192 / 4
/** Four flag bytes, then four xids of four bytes. */
const MEMBER_GROUP_SIZE = 20
const MEMBERS_PER_GROUP = 4
export const MULTIXACT_MEMBERS_PER_PAGE = Math.floor(8192 / MEMBER_GROUP_SIZE) * MEMBERS_PER_GROUP
export const COMMIT_TS_ENTRY_SIZE = 10
export const COMMIT_TS_XACTS_PER_PAGE = Math.floor(8192 / COMMIT_TS_ENTRY_SIZE)

export const FIRST_NORMAL_XID = 3
export const FIRST_MULTIXACT_ID = 1

export const TRANSACTION_STATUS = { inProgress: 0, committed: 1, aborted: 2, subCommitted: 3 }

/** Ids of the first entry and entries per page, as the page comparison of each area needs them. */
const COMPARISON: readonly { perPage: number; first: number }[] = [
  { perPage: CLOG_XACTS_PER_PAGE, first: FIRST_NORMAL_XID + 1 },
  { perPage: MULTIXACT_OFFSETS_PER_PAGE, first: FIRST_MULTIXACT_ID + 1 },
  { perPage: MULTIXACT_MEMBERS_PER_PAGE, first: 0 },
  { perPage: COMMIT_TS_XACTS_PER_PAGE, first: FIRST_NORMAL_XID + 1 },
]

/** True when id `a` is older than `b`, modulo 2^32. Special xids (below 3) are for the caller. */
export function idPrecedes(a: number, b: number): boolean {
  return ((a - b) | 0) < 0
}

/** Xid comparison with the special xids, which are older than all others (TransactionIdPrecedes). */
export function xidPrecedes(a: number, b: number): boolean {
  if (a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID) return a < b
  return idPrecedes(a, b)
}

/** True when every entry of page `a` is older than every entry of page `b`. */
export function slruPagePrecedes(kind: number, a: number, b: number): boolean {
  const { perPage, first } = COMPARISON[kind] as { perPage: number; first: number }
  const idA = (Math.imul(a, perPage) + first) >>> 0
  const idB = (Math.imul(b, perPage) + first) >>> 0
  return idPrecedes(idA, idB) && idPrecedes(idA, (idB + perPage - 1) >>> 0)
}

/** True when truncation before page `cutoff` may remove the segment (SlruMayDeleteSegment). */
export function slruSegmentIsOld(kind: number, segment: number, cutoff: number): boolean {
  const firstPage = segment * SLRU_SEGMENT_PAGES
  return (
    slruPagePrecedes(kind, firstPage, cutoff) &&
    slruPagePrecedes(kind, firstPage + SLRU_SEGMENT_PAGES - 1, cutoff)
  )
}

/** Where member `offset` lies in its page: its group's flag bytes, its flag byte, its xid. */
function memberGroupOffset(offset: number): number {
  const group = Math.floor(offset / MEMBERS_PER_GROUP)
  return (group % (MULTIXACT_MEMBERS_PER_PAGE / MEMBERS_PER_GROUP)) * MEMBER_GROUP_SIZE
}

export function memberFlagOffset(offset: number): number {
  return memberGroupOffset(offset) + (offset % MEMBERS_PER_GROUP)
}

export function memberXidOffset(offset: number): number {
  return memberGroupOffset(offset) + MEMBERS_PER_GROUP + (offset % MEMBERS_PER_GROUP) * 4
}
