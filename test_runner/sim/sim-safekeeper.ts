/** A safekeeper in virtual time: the real acceptor, its effects on a simulated disk and network. */
import { type Lsn, segmentNumber } from '#libs/lsn.ts'
import { lastLogTerm } from '#libs/protocol/term-history.ts'
import type { AcceptorMessage, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import type { SyncPoint } from '../../control/membership/migration.ts'
import { Acceptor, type AcceptorEffect, type AcceptorEvent } from '../../safekeeper/acceptor.ts'
import type { ControlState } from '../../safekeeper/control-state.ts'
import { segmentStart } from '../../safekeeper/store/segment-plan.ts'
import type { Coverage } from './coverage.ts'
import { SimDisk } from './disk.ts'
import type { FaultKind, Faults } from './faults.ts'
import { Host } from './host.ts'
import { type Mutation, mutateEffects } from './mutations.ts'
import type { End, Link, Network } from './network.ts'
import { type Oracle, Violation, type Witness } from './oracle.ts'
import { Pledges } from './pledges.ts'
import type { Prng } from './prng.ts'
import type { Residence } from './residence.ts'
import { type Far, SimConnections } from './sim-connections.ts'
import { SimStore } from './sim-store.ts'
import { copyOf, type TimelineCopy } from './timeline-copy.ts'

const SAVE_MS = 3000
/** Leaving the disk and coming back have few steps, and happen a few times in a run. */
const CRASHES_ON_THE_WAY = 30

export interface SimSafekeeperOptions {
  id: number
  control: ControlState
  network: Network
  random: Prng
  faults: Faults
  oracle: Oracle
  coverage: Coverage
  maxDiskDelayMs: () => number
  /** Per effect. */
  crashChance: number
  eioChance: number
  mutation: Mutation | null
  /** False: it begins without a copy of the timeline. */
  isMember: boolean
  /** Committed WAL out of object storage. */
  archive: (from: Lsn, to: Lsn) => Buffer
  /** It is down, and comes back when the simulation calls `boot`. */
  onDown: (safekeeper: SimSafekeeper) => void
}

export class SimSafekeeper implements Witness {
  readonly id: number
  readonly host: Host
  readonly #options: SimSafekeeperOptions
  readonly #disk = new SimDisk()
  readonly #startLsn: Lsn
  readonly #crashFault: FaultKind
  #store: SimStore
  /** Null while it is down or starting. */
  acceptor: Acceptor | null = null
  /** Its timeline is gone from its disk: nobody may take it for the member it was. */
  absent = false
  incarnation = 0
  /** How often this life has cut the log. */
  cuts = 0
  readonly lost: Witness['lost'][number][] = []
  /** Null when the timeline never leaves this disk. */
  residence: Residence | null = null
  #occupants = 0
  /** Nothing of this generation or a lower one may come back: survives crashes and wiped disks. */
  #tombstone = 0
  readonly #connections: SimConnections
  #queue: AcceptorEffect[] = []
  #busy = false
  #lifeCommit: Lsn
  #cleanTail = false
  readonly #pledges: Pledges
  #sinceAnswer = new Map<number, (refusal: string | null) => void>()
  #requests = 0

  constructor(options: SimSafekeeperOptions) {
    this.#options = options
    this.id = options.id
    const { scheduler } = options.network
    this.host = new Host(options.id, `sk${options.id}`, scheduler, { offsetMs: 0, rate: 1 })
    this.#startLsn = options.control.startLsn
    this.#pledges = new Pledges(this.id, this.#startLsn, options.oracle)
    this.#connections = new SimConnections({
      host: this.host,
      mutation: options.mutation,
      configuration: () => this.acceptor?.control.configuration ?? null,
      dispatch: (event) => this.dispatch(event),
    })
    this.#lifeCommit = this.#startLsn
    this.#crashFault = options.faults.kind('crash-between')
    this.#store = this.#newStore(options.control, this.#startLsn)
    if (options.isMember) SimStore.install(this.#disk, options.control, Buffer.alloc(0))
    else this.absent = true
    this.boot()
  }

  get durableEnd(): Lsn {
    return this.absent ? this.#startLsn : this.#store.durableEnd
  }

  /** Whether anybody would answer a request. */
  get reachable(): boolean {
    return this.absent || this.acceptor !== null
  }

  get durableLogTerm(): number {
    return lastLogTerm(this.#store.durableControl.history, this.#store.durableEnd)
  }

  get durableControl(): ControlState {
    return this.#store.durableControl
  }

  get flushLsn(): Lsn {
    return this.acceptor?.flushLsn ?? this.#startLsn
  }

  get commitLsn(): Lsn {
    return this.acceptor?.commitLsn ?? this.#startLsn
  }

  /** Where WAL begins that can be read from this disk. */
  get localStartLsn(): Lsn {
    return this.durableControl.eviction?.flushLsn ?? this.#store.localStartLsn
  }

  /** Where the store says that the WAL on this disk begins. */
  get diskStartLsn(): Lsn {
    return this.#store.localStartLsn
  }

  get evicted(): boolean {
    return !this.absent && this.residence?.evicted === true
  }

  get inUse(): boolean {
    return this.#connections.size > 0 || this.#occupants > 0
  }

  durableBytes(from: Lsn, to: Lsn): Buffer {
    return this.#store.readDurable(from, to)
  }

  get durableTerm(): number {
    return this.#store.durableControl.term
  }

  get durableGeneration(): number {
    return this.#store.durableControl.configuration.generation
  }

  /** WAL as its streams send it: from object storage what was removed here. */
  readWal(from: Lsn, to: Lsn): Buffer {
    const { localStartLsn } = this
    if (from >= localStartLsn) return this.#store.read(from, to)
    const removed = this.#options.archive(from, Math.min(to, localStartLsn))
    return to <= localStartLsn
      ? removed
      : Buffer.concat([removed, this.#store.read(localStartLsn, to)])
  }

  /** Removes whole segments below `lsn` from the disk. */
  removeWal(lsn: Lsn, done: () => void): void {
    this.#store.remove(lsn, done)
  }

  /**
   * Brings the timeline to this disk and keeps it there until `leave` is called; null when it cannot
   * be had. At once when no timeline is ever evicted; never when the process ends before.
   */
  occupy(occupied: (leave: (() => void) | null) => void): void {
    if (this.acceptor === null || this.residence === null) {
      occupied(this.acceptor && (() => {}))
      return
    }
    const { life } = this.host
    let isOccupied = true
    const leave = (): void => {
      if (isOccupied && this.host.life === life) this.#occupants -= 1
      isOccupied = false
    }
    this.#occupants += 1
    this.residence.wake((isThere) => {
      if (!isThere) leave()
      occupied(isThere ? leave : null)
    })
  }

  /** Calls back when WAL below `to` can be read here; full segments of an evicted timeline can always. */
  reach(to: Lsn, reached: (isThere: boolean) => void): void {
    if (!this.evicted || to <= segmentStart(segmentNumber(this.flushLsn))) {
      reached(true)
      return
    }
    this.occupy((leave) => {
      reached(leave !== null)
      leave?.()
    })
  }

  /** All WAL goes from this disk. */
  leaveDisk(done: () => void): void {
    this.checkElsewhere()
    this.#trace('leaves its disk', this.flushLsn)
    this.#store.leave(done)
  }

  /** The newest segment comes back, up to the end of the log. */
  returnToDisk(tail: Buffer | null, done: (problem: string | null) => void): void {
    this.#trace('returns to its disk', this.flushLsn)
    this.#cleanTail = false
    this.#store.restore(tail, (problem) => {
      if (problem === null) this.#pledges.checkReturn(this.#store)
      done(problem)
    })
  }

  /** I8 of a timeline that is not on its disk: what it acknowledged is in object storage. */
  checkElsewhere(): void {
    if (this.durableControl.eviction !== null) this.#pledges.checkElsewhere(this.residence)
  }

  /** What a page server tells of itself. */
  feedback(lastReceivedLsn: Lsn, diskConsistentLsn: Lsn, remoteConsistentLsn: Lsn): void {
    this.dispatch({
      kind: 'pageserver-feedback',
      feedback: {
        currentTimelineSizeBytes: 0,
        lastReceivedLsn,
        diskConsistentLsn,
        remoteConsistentLsn,
        replyTimeUs: 0n,
        shardNumber: 0,
        shardCount: 1,
        incarnation: 1,
      },
    })
    const { acceptor } = this
    if (acceptor !== null && acceptor.control.remoteConsistentLsn > acceptor.commitLsn) {
      throw new Violation('I23', `safekeeper ${this.id} takes feedback beyond its commit`)
    }
  }

  /** The process starts; it takes part when its log has been read and rewritten. */
  boot(): void {
    if (this.acceptor !== null || this.absent) return
    this.host.die()
    this.#queue = []
    this.#busy = false
    this.#occupants = 0
    this.#sinceAnswer.clear()
    // Until the log is read the oracle sees the medium as it was.
    this.#store = this.#newStore(this.#store.durableControl, this.#store.durableEnd)
    this.#store.boot((control, flushLsn) => this.#open(control, flushLsn))
  }

  #open(control: ControlState, flushLsn: Lsn): void {
    if (control.eviction !== null) this.checkElsewhere()
    this.#pledges.checkBoot(control, flushLsn, this.#store)
    this.#trace('boots at', control.term, flushLsn)
    this.acceptor = new Acceptor({
      nodeId: this.id,
      incarnation: `${this.id}`.padStart(8, '0').repeat(3) + `${this.incarnation}`.padStart(8, '0'),
      control,
      flushLsn,
    })
    this.#lifeCommit = control.commitLsn
    this.cuts = 0
    this.#cleanTail = false
    this.#everySave()
  }

  #everySave(): void {
    this.host.after(SAVE_MS, () => {
      this.dispatch({ kind: 'save' })
      this.#everySave()
    })
  }

  /** The process ends; with `power` the machine does too, and unsynced writes are up to chance. */
  crash(power: boolean): void {
    if (this.absent) return
    const wasUp = this.acceptor !== null
    this.#trace(power ? 'loses power' : 'is killed')
    this.#options.coverage.count(power ? 'power losses' : 'kills')
    if (this.durableControl.eviction !== null) {
      this.#options.coverage.count('crashes while evicted')
    }
    this.acceptor = null
    this.host.die()
    this.#options.network.hostDied(this.host, power)
    this.#connections.clear()
    if (power) {
      if (this.#disk.crash(this.#options.random)) this.#options.coverage.count('torn writes')
    }
    if (wasUp || power) this.#options.onDown(this)
  }

  /** Its disk is replaced by an empty one: it is no member any more, whatever the others believe. */
  wipe(): void {
    this.crash(true)
    this.#lose()
    this.#options.coverage.count('wiped disks')
  }

  /** Its copy goes, if it is of this generation or a lower one, and none such may come back. */
  delete(generation: number, done: () => void): void {
    this.#tombstone = Math.max(this.#tombstone, generation)
    if (!this.absent && this.durableControl.configuration.generation <= generation) {
      this.#options.coverage.count('deleted copies')
      this.crash(false)
      this.#lose()
    }
    done()
  }

  /** A spare node begins so, and everything it held is gone. */
  #lose(): void {
    const { configuration } = this.durableControl
    const { durableEnd, durableLogTerm } = this
    this.lost.push({ generation: configuration.generation, durableEnd, durableLogTerm })
    this.absent = true
    this.incarnation += 1
    this.#disk.wipe()
    this.#pledges.forget()
  }

  /** What it tells the control plane: durable things only; null while it is down. */
  positions(): { generation: number; term: number; lastLogTerm: number; flushLsn: Lsn } | null {
    if (this.acceptor === null) return null
    const { configuration, term, history } = this.durableControl
    const { flushLsn } = this.acceptor
    const { generation } = configuration
    return { generation, term, lastLogTerm: lastLogTerm(history, flushLsn), flushLsn }
  }

  /** A copy for a new member, as a pull from here takes it; null when it cannot be had. */
  copyFor(configuration: MemberConfiguration, minimum: SyncPoint | null): TimelineCopy | null {
    if (this.acceptor === null) return null
    return copyOf(this.acceptor, configuration, minimum, (from, to) => this.readWal(from, to))
  }

  /** Whether nothing that was copied has been cut since. */
  stillAt({ donorTerm, donorLogTerm }: TimelineCopy): boolean {
    const { acceptor } = this
    return acceptor?.control.term === donorTerm && acceptor.lastLogTerm === donorLogTerm
  }

  /** Takes a copy; false when it was deleted here under this generation or a later one. */
  install({ control, wal }: TimelineCopy): boolean {
    if (control.configuration.generation <= this.#tombstone) return false
    if (!this.absent) return true
    this.absent = false
    SimStore.install(this.#disk, control, wal)
    this.#store = this.#newStore(control, control.localStartLsn + wal.length)
    this.#pledges.copied(control.localStartLsn)
    this.boot()
    return true
  }

  set diskFull(full: boolean) {
    this.#disk.full = full
  }

  /** A proposer connects; `open` makes the stream with this end. */
  accept(open: (end: End) => Link, peer: string): void {
    this.#assertPresent()
    this.#connections.accept(open, peer)
  }

  /** A connection from this very process. Answers come later, never within a call. */
  acceptLocal(peer: string, far: Far): number {
    this.#assertPresent()
    return this.#connections.acceptLocal(peer, far)
  }

  #assertPresent(): void {
    if (!this.evicted) return
    throw new Violation('I8', `somebody writes to safekeeper ${this.id}, whose WAL is elsewhere`)
  }

  closeLocal(id: number): void {
    this.#connections.closeLocal(id)
  }

  /** Asks the acceptor for something that is answered; null for "done". */
  request(
    make: (request: number) => AcceptorEvent,
    answered: (refusal: string | null) => void,
  ): void {
    const request = ++this.#requests
    this.#sinceAnswer.set(request, answered)
    this.dispatch(make(request))
  }

  dispatch(event: AcceptorEvent): void {
    const { acceptor } = this
    if (acceptor === null) return
    const effects = acceptor.step(event)
    for (const effect of mutateEffects(this.#options.mutation, effects)) {
      this.#queue.push(
        effect.kind === 'write' ? { ...effect, wal: Buffer.from(effect.wal) } : effect,
      )
    }
    if (acceptor.commitLsn < this.#lifeCommit) {
      throw new Violation('I9', `safekeeper ${this.id} takes back its commit position`)
    }
    this.#lifeCommit = acceptor.commitLsn
    this.#run()
  }

  #run(): void {
    while (!this.#busy && this.acceptor !== null) {
      const effect = this.#queue.shift()
      if (effect === undefined) return
      if (this.#crashes(effect.kind)) return
      this.#perform(effect)
    }
  }

  #crashes(before: string, times = 1): boolean {
    if (!this.#crashFault.fires(times * this.#options.crashChance)) return false
    this.#options.coverage.count(`crash before ${before}`)
    this.crash(this.#crashFault.random.chance(0.6))
    return true
  }

  #perform(effect: AcceptorEffect): void {
    switch (effect.kind) {
      case 'send':
        this.#send(effect.connection, effect.message)
        break
      case 'close':
        this.#options.coverage.count(`closed: ${closeKind(effect.reason)}`)
        this.#trace('closes', effect.connection)
        this.#connections.close(effect.connection)
        break
      case 'write':
        this.#write(effect)
        break
      case 'flush':
        this.#busy = this.#store.flush(() => this.#resume())
        break
      case 'truncate':
        this.#options.coverage.count('truncations')
        this.cuts += 1
        this.#trace('truncates at', effect.lsn)
        this.#busy = true
        this.#pledges.cut(effect.lsn)
        this.#store.truncate(effect.lsn, () => this.#resume())
        break
      case 'persist': {
        const { control, background } = effect
        this.#busy = !background
        this.#store.persist(control, () => {
          this.dispatch({ kind: 'persisted', commitLsn: control.commitLsn })
          if (!background) this.#resume()
        })
        break
      }
      case 'committed':
        break
      case 'answer': {
        const answered = this.#sinceAnswer.get(effect.request)
        this.#sinceAnswer.delete(effect.request)
        answered?.(effect.refusal)
        break
      }
      case 'halt':
        throw new Violation('I10', `safekeeper ${this.id} halts: ${effect.reason}`)
    }
  }

  #write(effect: Extract<AcceptorEffect, { kind: 'write' }>): void {
    if (!this.#cleanTail) {
      if (this.#store.hasTail(effect.lsn)) {
        throw new Violation('I27', `safekeeper ${this.id} writes before a tail that was not cut`)
      }
      this.#cleanTail = true
    }
    if (effect.lsn !== this.#store.writtenEnd) {
      throw new Violation('I16', `safekeeper ${this.id} writes with a gap at ${effect.lsn}`)
    }
    this.#store.write(effect.epoch, effect.lsn, effect.wal)
    if (this.#options.mutation === 'ack-written') {
      const writeLsn = effect.lsn + effect.wal.length
      this.host.after(0, () => this.dispatch({ kind: 'flushed', epoch: effect.epoch, writeLsn }))
    }
  }

  #resume(): void {
    this.#busy = false
    this.#run()
  }

  #newStore(control: ControlState, durableLsn: Lsn): SimStore {
    const { faults, mutation, eioChance } = this.#options
    return new SimStore(
      {
        host: this.host,
        disk: this.#disk,
        random: this.#options.random,
        coverage: this.#options.coverage,
        crashes: (doing) =>
          doing === undefined
            ? this.#crashes('a step of the store')
            : this.#crashes(doing, CRASHES_ON_THE_WAY),
        maxDelayMs: this.#options.maxDiskDelayMs,
        eio: faults.kind('failed-sync'),
        eioChance,
        mutation,
        onDurable: (epoch, writeLsn) => {
          if (mutation !== 'ack-written') this.dispatch({ kind: 'flushed', epoch, writeLsn })
        },
        onFatal: () => {
          this.#options.coverage.count('failed syncs')
          this.crash(false)
        },
      },
      control,
      durableLsn,
    )
  }

  #send(id: number, message: AcceptorMessage): void {
    const target = this.#connections.get(id)
    if (target === undefined) return
    const { incarnation } = this
    this.#pledges.tell(message, this.#store, { incarnation, peer: target.peer })
    this.#trace(message.kind, message.term, 'flushLsn' in message ? message.flushLsn : 0)
    target.far.send(message)
  }

  #trace(what: string, a = 0, b = 0): void {
    this.#options.network.scheduler.trace(this.host.name, what, a, b)
  }
}

/** A reason without its numbers, to count by. */
function closeKind(reason: string): string {
  if (reason.includes('does not continue')) return 'append does not continue the log'
  if (reason.includes('position changed')) return 'late elected'
  if (reason.includes('generation')) return 'other generation'
  if (reason.includes('newer connection')) return 'newer connection'
  return reason.includes('another connection') ? 'another connection streams' : 'other'
}
