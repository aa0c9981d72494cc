/** A timeline as a pull copies it from one simulated safekeeper to another. */
import { type Lsn, segmentOffset } from '#libs/lsn.ts'
import { cutHistory } from '#libs/protocol/term-history.ts'
import type { MemberConfiguration } from '#libs/protocol/wal-push.ts'
import type { SyncPoint } from '../../control/membership/migration.ts'
import type { Acceptor } from '../../safekeeper/acceptor.ts'
import type { ControlState } from '../../safekeeper/control-state.ts'

/** A timeline as it is copied to another safekeeper. */
export interface TimelineCopy {
  readonly control: ControlState
  /** From the copy's `localStartLsn` on. */
  readonly wal: Buffer
  readonly donorTerm: number
  readonly donorLogTerm: number
}

/** The copy for a member of `configuration`; null when the log is behind what it must have. */
export function copyOf(
  acceptor: Acceptor,
  configuration: MemberConfiguration,
  minimum: SyncPoint | null,
  read: (from: Lsn, to: Lsn) => Buffer,
): TimelineCopy | null {
  const { control, flushLsn } = acceptor
  if (minimum !== null) {
    const { lastLogTerm: term, flushLsn: end } = minimum.position
    if ((acceptor.lastLogTerm - term || flushLsn - end) < 0) return null
  }
  const { startLsn, remoteConsistentLsn, backupLsn, commitLsn } = control
  const settled = Math.min(remoteConsistentLsn, backupLsn, commitLsn)
  const first = Math.max(control.localStartLsn, settled)
  const localStartLsn = Math.max(startLsn, first - segmentOffset(first))
  return {
    control: {
      ...control,
      configuration,
      term: Math.max(control.term, minimum?.term ?? 0),
      history: cutHistory(control.history, flushLsn),
      commitLsn: Math.min(commitLsn, flushLsn),
      localStartLsn,
      partialBackups: [],
      eviction: null,
      dirtyTail: false,
    },
    wal: Buffer.from(read(localStartLsn, flushLsn)),
    donorTerm: control.term,
    donorLogTerm: acceptor.lastLogTerm,
  }
}
