/** What safekeepers of the model have on their disks, and what happens to it. */
import { assert } from '#libs/errors.ts'
import type { AcceptorEffect, AcceptorEvent } from '../../safekeeper/acceptor.ts'
import type { ControlState } from '../../safekeeper/control-state.ts'
import type { AcceptorNodes } from './acceptor-node.ts'
import type { SafekeeperView } from './invariants.ts'
import { endOf, type Log, logBytes, placesBelow, START_LSN, writersOf } from './records.ts'
import { Interner } from './snapshot.ts'
import type { Disk } from './state.ts'

/** An event of an acceptor, with the name of its transition. */
export interface NamedEvent {
  readonly key: string
  readonly event: AcceptorEvent
}

export class Disks {
  readonly #acceptors: AcceptorNodes
  readonly #controls = new Interner<ControlState>()
  readonly #logs = new Interner<Log>()

  constructor(acceptors: AcceptorNodes) {
    this.#acceptors = acceptors
  }

  /** The disk of a safekeeper that has just been given the timeline. */
  first(id: number, control: ControlState): Disk {
    return {
      node: this.#acceptors.boot(id, control, START_LSN),
      control: this.#controls.idOf(control),
      log: this.logId([]),
      durable: 0,
      epoch: 0,
    }
  }

  log(id: number): Log {
    return this.#logs.value(id)
  }

  logId(log: Log): number {
    return this.#logs.id(log.join(), log)
  }

  /** Something was written and a crash may take it back. */
  isUnsynced(disk: Disk): boolean {
    return disk.durable < this.log(disk.log).length
  }

  /** WAL between two places. */
  bytes(disk: Disk, from: number, to: number): Buffer {
    return logBytes(this.log(disk.log), from, to)
  }

  write(disk: Disk, effect: Extract<AcceptorEffect, { kind: 'write' }>): void {
    const log = this.log(disk.log)
    assert(endOf(log) === effect.lsn, 'a write continues the log')
    disk.log = this.logId([...log, ...writersOf(effect.wal, log.length)])
    disk.epoch = effect.epoch
  }

  truncate(disk: Disk, lsn: number): void {
    const length = placesBelow(lsn)
    disk.log = this.logId(this.log(disk.log).slice(0, length))
    disk.durable = Math.min(disk.durable, length)
  }

  persist(disk: Disk, control: ControlState): NamedEvent {
    disk.control = this.#controls.idOf(control)
    return {
      key: `persisted ${control.commitLsn}`,
      event: { kind: 'persisted', commitLsn: control.commitLsn },
    }
  }

  /** All that was written is durable. */
  sync(disk: Disk): NamedEvent {
    const log = this.log(disk.log)
    disk.durable = log.length
    const writeLsn = endOf(log)
    return {
      key: `flushed ${disk.epoch} ${writeLsn}`,
      event: { kind: 'flushed', epoch: disk.epoch, writeLsn },
    }
  }

  /** The process ends and starts again; what was not synced is there only with `keepsWrites`. */
  crash(disk: Disk, id: number, keepsWrites: boolean): void {
    const log = this.log(disk.log)
    const kept = keepsWrites ? log : log.slice(0, disk.durable)
    disk.log = this.logId(kept)
    disk.durable = kept.length
    disk.epoch = 0
    disk.node = this.#acceptors.boot(id, this.#controls.value(disk.control), endOf(kept))
  }

  view(disk: Disk): SafekeeperView {
    const acceptor = this.#acceptors.state(disk.node)
    return {
      log: this.log(disk.log),
      durable: disk.durable,
      storedTerm: this.#controls.value(disk.control).term,
      term: acceptor.control.term,
      lastLogTerm: acceptor.lastLogTerm,
      flushed: placesBelow(acceptor.flushLsn),
      committed: placesBelow(acceptor.commitLsn),
    }
  }
}
