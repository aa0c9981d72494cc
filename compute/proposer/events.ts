/** What goes into the proposer's core and what comes out of it. */
import type { Lsn } from '#libs/lsn.ts'
import type { AcceptorMessage, Append, Member, ProposerMessage } from '#libs/protocol/wal-push.ts'

export type ProposerEvent =
  | { kind: 'start'; nowMs: number }
  | { kind: 'tick'; nowMs: number }
  /** The connection asked for by `connect` is ready for messages. */
  | { kind: 'connected'; node: number; nowMs: number }
  | { kind: 'disconnected'; node: number; nowMs: number }
  | { kind: 'message'; node: number; message: AcceptorMessage; nowMs: number }
  /** The shell holds WAL of this compute in [startLsn, endLsn); startLsn is not above commit. */
  | { kind: 'window'; startLsn: Lsn; endLsn: Lsn }
  /** A fetch ended: complete, or broken off. The shell itself ends those of a lost connection. */
  | { kind: 'fetch-ended'; node: number; complete: boolean }

export type ProposerEffect =
  | { kind: 'connect'; node: number; member: Member }
  | { kind: 'disconnect'; node: number; reason: string }
  | { kind: 'send'; node: number; message: ProposerMessage }
  /** From `wantedFetches`: read WAL [beginLsn, endLsn) from the safekeeper `donor` and pass it to `relay`. */
  | { kind: 'fetch'; node: number; donor: number; beginLsn: Lsn; endLsn: Lsn }
  /** The election is won; the log ends at `startLsn`, not yet committed. The window is empty there. */
  | { kind: 'elected'; term: number; startLsn: Lsn }
  /** Won again with this compute's own log, which goes on at `startLsn`; the window stays. */
  | { kind: 're-elected'; term: number; startLsn: Lsn }
  /** Leads no more for the time being: the election is held again. */
  | { kind: 'deposed'; reason: string }
  | { kind: 'committed'; lsn: Lsn }
  | { kind: 'fenced'; reason: string }

export type AppendHeader = Omit<Append, 'kind' | 'wal'>
