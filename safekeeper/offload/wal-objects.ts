/**
 * Names of WAL in object storage:
 *
 * ```
 * wal/<tenant>/<timeline>/<segment>                                         a full segment, 16 MiB
 * wal/<tenant>/<timeline>/partial/<segment>_<term>_<flush>_<commit>_sk<id>   the tail of one safekeeper
 * ```
 *
 * `<segment>` is Postgres' file name; term is the last log term, decimal; LSNs are 16 hex digits.
 * A tail holds the segment's bytes from its start up to `flush`, nothing behind.
 */
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { type Lsn, segmentFileName, segmentNumber } from '#libs/lsn.ts'

/** Postgres' own timeline number, which never changes here. */
const WAL_TIMELINE = 1

export interface WalOwner {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
}

/** Folder of everything that one timeline has in object storage. */
export function walFolder(owner: WalOwner): string {
  return `wal/${owner.tenantId}/${owner.timelineId}`
}

export function segmentObject(owner: WalOwner, segment: number): string {
  return `${walFolder(owner)}/${segmentFileName(WAL_TIMELINE, segment)}`
}

export function tailObject(owner: WalOwner, name: string): string {
  return `${walFolder(owner)}/partial/${name}`
}

export interface TailIdentity {
  flushLsn: Lsn
  lastLogTerm: number
  commitLsn: Lsn
  nodeId: number
}

/** Name of a tail below `partial/`; it tells all that decides its bytes. */
export function tailName(tail: TailIdentity): string {
  const segment = segmentFileName(WAL_TIMELINE, segmentNumber(tail.flushLsn))
  const lsns = `${lsnHex(tail.flushLsn)}_${lsnHex(tail.commitLsn)}`
  return `${segment}_${tail.lastLogTerm}_${lsns}_sk${tail.nodeId}`
}

function lsnHex(lsn: Lsn): string {
  return lsn.toString(16).toUpperCase().padStart(16, '0')
}
