/**
 * A course of events among five safekeepers that chance does not find: safekeeper 4 holds WAL of term
 * 1 that leader 2, elected by 2, 3 and 5, will cut. Leader 3, elected by 1, 2 and 3, has committed
 * that very WAL meanwhile and tells 5, whose log still ends in term 1. If 4 took over what 5 calls
 * committed, the late Elected of leader 2 would ask it to cut below its commit.
 */
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { ProposerMessage } from '#libs/protocol/wal-push.ts'
import { Acceptor, type AcceptorEffect } from '../../safekeeper/acceptor.ts'
import { newControlState } from '../../safekeeper/control-state.ts'
import { WalBuilder } from '../fixtures/wal-builder.ts'
import { Violation } from './oracle.ts'

const SEGMENT = WAL_SEGMENT_SIZE

/** Null when safekeeper 4 survives; `peerTerm` is the term that it believes 5 to have, in truth 3. */
export function lateLeaderCuts(peerTerm: number): Violation | null {
  const wal = new WalBuilder(SEGMENT)
  const leaderTwoStart = wal.appendNoop(600).endLsn
  const told = wal.appendNoop(600).endLsn
  wal.appendNoop(600)
  const members = [1, 2, 3, 4, 5].map((id) => ({
    id,
    host: `sk${id}`,
    pgPort: 5454,
    httpPort: 7676,
  }))
  const configuration = { generation: 1, members, newMembers: null }
  const control = {
    ...newControlState({
      tenantId: parseTenantId('5'.repeat(32)),
      timelineId: parseTimelineId('7'.repeat(32)),
      configuration,
      pgVersion: 170011,
      systemId: 7n,
      startLsn: SEGMENT,
      createdAtMs: 0,
    }),
    term: 1,
    history: [
      { term: 0, startLsn: SEGMENT },
      { term: 1, startLsn: SEGMENT },
    ],
  }
  const incarnation = '4'.repeat(32)
  const four = new Acceptor({ nodeId: 4, incarnation, control, flushLsn: wal.lsn })
  const say = (message: ProposerMessage): AcceptorEffect[] =>
    four.step({ kind: 'message', connection: 1, message })
  four.step({
    kind: 'peer',
    peer: {
      term: peerTerm,
      lastLogTerm: 1,
      commitLsn: told,
      peerHorizonLsn: SEGMENT,
      remoteConsistentLsn: SEGMENT,
    },
  })
  say({
    kind: 'greeting',
    tenantId: control.tenantId,
    timelineId: control.timelineId,
    configuration,
    pgVersion: 170011,
    systemId: 7n,
    walSegmentSize: SEGMENT,
    proposerId: '2'.repeat(32),
    ordinal: 1,
  })
  say({ kind: 'vote', generation: 1, term: 2 })
  const effects = say({
    kind: 'elected',
    generation: 1,
    term: 2,
    startStreamingAt: leaderTwoStart,
    history: [...control.history, { term: 2, startLsn: leaderTwoStart }],
  })
  const halt = effects.find((effect) => effect.kind === 'halt')
  if (halt) return new Violation('I10', halt.reason)
  const cut = effects.find((effect) => effect.kind === 'truncate')
  return cut?.lsn === leaderTwoStart ? null : new Violation('I10', 'the log was not cut')
}
