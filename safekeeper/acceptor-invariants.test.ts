import { describe, expect, it } from 'vitest'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { AcceptorInvariants, type AcceptorView } from './acceptor-invariants.ts'
import { type ControlState, newControlState } from './control-state.ts'

const START = 0x1000000
const CONTROL: ControlState = {
  ...newControlState({
    tenantId: parseTenantId('a'.repeat(32)),
    timelineId: parseTimelineId('b'.repeat(32)),
    configuration: {
      generation: 2,
      members: [{ id: 1, host: 'sk1', pgPort: 1, httpPort: 2 }],
      newMembers: null,
    },
    pgVersion: 170011,
    systemId: 7n,
    startLsn: START,
    createdAtMs: 0,
  }),
  term: 3,
  history: [
    { term: 0, startLsn: START },
    { term: 3, startLsn: START + 800 },
  ],
}
const VIEW: AcceptorView = {
  control: CONTROL,
  savedCommit: START + 8,
  commit: START + 800,
  flush: START + 1600,
  recordEnd: START + 1600,
  write: START + 1700,
  epoch: 0,
}
const control = (change: Partial<ControlState>) => ({ control: { ...CONTROL, ...change } })

describe('invariants of an acceptor', () => {
  const broken: [string, Partial<AcceptorView>][] = [
    ['I1', control({ term: 2, history: CONTROL.history.slice(0, 1) })],
    ['I1', control({ history: [...CONTROL.history, { term: 4, startLsn: START + 900 }] })],
    ['I4', control({ history: [CONTROL.history[0]!, { term: 3, startLsn: START + 808 }] })],
    ['I4', control({ history: [...CONTROL.history].reverse() })],
    ['I4', control({ history: CONTROL.history.slice(1) })],
    ['I7', { flush: START + 1592, recordEnd: START + 1592 }],
    ['I7', { flush: START + 1608 }],
    ['I7', { recordEnd: START + 1708 }],
    ['I9', { commit: START + 792 }],
    ['I9', { commit: START + 1608, recordEnd: START + 1608 }],
    ['I9', { savedCommit: START + 808 }],
    ['I16', { write: START + 1600 }],
    ['I17', control({ configuration: { ...CONTROL.configuration, members: [] } })],
    ['I17', control({ configuration: { ...CONTROL.configuration, generation: 1 } })],
    ['I21', control({ backupLsn: START + 808 })],
  ]

  it.each(broken)('%s breaks, case %#', (name, change) => {
    const invariants = new AcceptorInvariants(VIEW)
    expect(() => invariants.check({ ...VIEW, ...change })).toThrow(`${name}:`)
  })

  it('hold while a log grows, is cut, and members change', () => {
    const invariants = new AcceptorInvariants(VIEW)
    const grown = { ...VIEW, write: START + 2000, recordEnd: START + 2000, flush: START + 1992 }
    invariants.check(grown)
    const end = START + 808
    const cut = { ...grown, write: end, recordEnd: end, flush: end, epoch: 1 }
    invariants.check({
      ...cut,
      ...control({
        term: 4,
        history: [CONTROL.history[0]!, { term: 4, startLsn: end }],
        configuration: { ...CONTROL.configuration, generation: 3 },
      }),
    })
  })
})
