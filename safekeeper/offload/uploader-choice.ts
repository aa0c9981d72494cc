/**
 * Which member of a timeline copies full segments to object storage. Every member computes the same
 * choice from what it heard of its peers; when they differ, two upload the same bytes under the
 * same names, which is harmless. When the chosen one gets nowhere the choice moves on.
 */
import type { TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'

/** A member further behind the best one than this has other things to do. */
const MAX_LAG_BYTES = 128 * 1024 * 1024

export interface UploaderCandidate {
  nodeId: number
  commitLsn: Lsn
  backupLsn: Lsn
  /** Oldest WAL on its disk. */
  localStartLsn: Lsn
}

export interface UploaderQuestion {
  timelineId: TimelineId
  own: UploaderCandidate
  /** Members of the configuration, both lists when it is joint. */
  members: readonly number[]
  /** Members heard of lately, without this one. */
  peers: readonly UploaderCandidate[]
  /** How many times the chosen one got nowhere in its time. */
  misses: number
}

/**
 * Node id of the uploader; null when this timeline has no members. Without word from any peer it is
 * the members in order of their ids, beginning with the first.
 */
export function chooseUploader(question: UploaderQuestion): number | null {
  const { own, members, peers, misses, timelineId } = question
  const isMember = (id: number) => members.includes(id)
  if (peers.length === 0) {
    const ids = [...new Set(members)].sort((a, b) => a - b)
    return ids[misses % ids.length] ?? null
  }
  const all = [own, ...peers]
  const bestCommit = Math.max(...all.map(({ commitLsn }) => commitLsn))
  const able = all.filter(
    ({ nodeId, commitLsn, localStartLsn }) =>
      isMember(nodeId) && localStartLsn <= own.backupLsn && commitLsn + MAX_LAG_BYTES >= bestCommit,
  )
  const fit = [...new Set(able.map(({ nodeId }) => nodeId))].sort((a, b) => a - b)
  // What peers say of themselves may be wrong. When all that look fit got nowhere, everybody is.
  const ids = misses < fit.length ? fit : [...new Set(members)].sort((a, b) => a - b)
  if (ids.length === 0) return null
  const first = Number.parseInt(timelineId.slice(0, 8), 16)
  return ids[(first + misses) % ids.length] as number
}
