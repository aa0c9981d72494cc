/**
 * What must hold between two steps of an acceptor, whatever was sent to it. Numbers as in
 * docs/wal-service/consensus.md. Checked in production: a timeline in which one of them breaks halts.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { sameMembers } from '#libs/protocol/quorum.ts'
import { isTermHistory, type TermEntry } from '#libs/protocol/term-history.ts'
import type { ControlState } from './control-state.ts'

export interface AcceptorView {
  control: ControlState
  /** Commit position in the newest control file that was asked for. */
  savedCommit: Lsn
  commit: Lsn
  flush: Lsn
  recordEnd: Lsn
  write: Lsn
  /** Rises with each cut of the tail. */
  epoch: number
}

export class AcceptorInvariants {
  #before: AcceptorView

  constructor(view: AcceptorView) {
    checkHistory(view.control)
    checkPositions(view)
    this.#before = view
  }

  check(view: AcceptorView): void {
    const before = this.#before
    checkPositions(view)
    assert(view.commit >= before.commit, 'I9: commit never falls')
    const cut = view.epoch !== before.epoch
    assert(cut || view.flush >= before.flush, 'I7: flush falls only when the tail is cut')
    assert(cut || view.write >= before.write, 'I16: written WAL goes only when the tail is cut')
    if (view.control !== before.control) checkControl(view.control, before.control)
    this.#before = view
  }
}

function checkPositions(view: AcceptorView): void {
  const { control, savedCommit, commit, flush, recordEnd, write } = view
  assert(control.startLsn <= commit, 'commit is not below the start of the timeline')
  assert(commit <= flush, 'I9: commit is not beyond flush')
  assert(savedCommit <= commit, 'I9: the stored commit is not beyond commit')
  assert(flush <= recordEnd, 'I7: flush is not beyond the last whole record')
  assert(recordEnd <= write, 'I7: a whole record has been written')
  assert(control.backupLsn <= commit, 'I21: the backup is not beyond commit')
}

function checkControl(control: ControlState, before: ControlState): void {
  assert(control.term >= before.term, 'I1: the term never falls')
  const [members, membersBefore] = [control.configuration, before.configuration]
  assert(
    members.generation > membersBefore.generation ||
      (members.generation === membersBefore.generation && sameMembers(members, membersBefore)),
    'I17: other members have a higher generation',
  )
  if (control.history === before.history) return
  checkHistory(control)
  const starts = new Map(before.history.map((entry) => [entry.term, entry.startLsn]))
  const known = (entry: TermEntry) => starts.get(entry.term) ?? entry.startLsn
  assert(
    control.history.every((entry) => entry.startLsn === known(entry)),
    'I4: a term starts at one position',
  )
}

function checkHistory({ history, startLsn, term }: ControlState): void {
  assert(isTermHistory(history), 'I4: a term history rises')
  assert(history[0]?.startLsn === startLsn, 'I4: a term history begins with the timeline')
  assert((history.at(-1)?.term ?? 0) <= term, 'I1: no history is of a term above our own')
}
