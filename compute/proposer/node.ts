/** A safekeeper as the proposer's core sees it, and logs compared as votes compare them. */
import type { Lsn } from '#libs/lsn.ts'
import { lastLogTerm } from '#libs/protocol/term-history.ts'
import type { AcceptorGreeting, Member, VoteReply } from '#libs/protocol/wal-push.ts'

export interface Node {
  member: Member
  /** waiting: to reconnect. greeting, voting: for that reply. greeted: until there is a campaign. */
  state: 'waiting' | 'connecting' | 'greeting' | 'greeted' | 'voting' | 'active'
  ordinal: number
  incarnation: string | null
  /** What it said on the present connection. */
  greeting: AcceptorGreeting | null
  vote: VoteReply | null
  sentLsn: Lsn
  /** Highest flush position acknowledged in this term. */
  ackedLsn: Lsn
  commitSent: Lsn
  heartbeatDue: boolean
  fetching: boolean
  fetchAtMs: number
  reconnectAtMs: number
  heardAtMs: number
  /** Last time it was heard of while active. */
  activeAtMs: number
  sentAtMs: number
}

export function newNode(member: Member, nowMs: number): Node {
  return {
    member,
    state: 'waiting',
    ordinal: 0,
    incarnation: null,
    greeting: null,
    vote: null,
    sentLsn: 0,
    ackedLsn: 0,
    commitSent: 0,
    heartbeatDue: false,
    fetching: false,
    fetchAtMs: 0,
    reconnectAtMs: nowMs,
    heardAtMs: 0,
    activeAtMs: 0,
    sentAtMs: 0,
  }
}

/** Where a log ends. The term counts first: a longer log of an older term may be a lost tail. */
export interface LogEnd {
  lastLogTerm: number
  flushLsn: Lsn
}

export function logEndOf(vote: VoteReply): LogEnd {
  return { lastLogTerm: lastLogTerm(vote.history, vote.flushLsn), flushLsn: vote.flushLsn }
}

/** Whether log `a` wins over log `b`. */
export function isBetterLog(a: LogEnd, b: LogEnd): boolean {
  if (a.lastLogTerm !== b.lastLogTerm) return a.lastLogTerm > b.lastLogTerm
  return a.flushLsn > b.flushLsn
}
