/** A safekeeper in virtual time: the real acceptor, its effects on a simulated disk and network. */
import type { Lsn } from '#libs/lsn.ts'
import {
  type AcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
} from '#libs/protocol/wal-push.ts'
import { RecordScanner } from '#libs/wal/record-scanner.ts'
import { Acceptor, type AcceptorEffect, type AcceptorEvent } from '../../safekeeper/acceptor.ts'
import {
  type ControlState,
  decodeControlState,
  encodeControlState,
} from '../../safekeeper/control-state.ts'
import { DISK_BYTES, SimDisk } from './disk.ts'
import type { Connection, Endpoint } from './network.ts'
import { type Oracle, Violation, type Witness } from './oracle.ts'
import type { Prng } from './prng.ts'
import type { Scheduler } from './scheduler.ts'

/** Deliberate faults, each of which the oracle must find. */
export type SafekeeperMutation =
  | 'vote-without-flush'
  | 'ack-written'
  | 'history-before-truncate'
  | 'cut-below'
  | 'vote-not-durable'

export interface SimSafekeeperOptions {
  id: number
  control: ControlState
  scheduler: Scheduler
  random: Prng
  oracle: Oracle
  maxDiskDelayMs: number
  /** Per effect. */
  crashChance: number
  mutation: SafekeeperMutation | null
  onCrash: (safekeeper: SimSafekeeper) => void
}

export class SimSafekeeper implements Witness {
  readonly id: number
  readonly #options: SimSafekeeperOptions
  readonly #disk: SimDisk
  readonly #startLsn: Lsn
  acceptor: Acceptor | null = null
  crashChance: number
  /** Counts boots: what was scheduled in an earlier life does nothing. */
  #life = 0
  #connections = new Map<number, { connection: Connection; proposerId: string }>()
  #connectionCounter = 0
  #queue: AcceptorEffect[] = []
  #busy = false
  #syncing = false
  #controlQueue: { control: ControlState; done: () => void }[] = []
  #flushWaiters: (() => void)[] = []
  /** Acknowledged bytes: they must survive whatever happens, until a new leader cuts them. */
  #ackedEnd: Lsn
  readonly #acked = Buffer.alloc(DISK_BYTES)
  truncations = 0
  crashes = 0

  constructor(options: SimSafekeeperOptions) {
    this.#options = options
    this.id = options.id
    this.crashChance = options.crashChance
    this.#startLsn = options.control.startLsn
    this.#disk = new SimDisk(this.#startLsn, encodeControlState(options.control))
    this.#ackedEnd = this.#startLsn
    this.boot()
  }

  get durableEnd(): Lsn {
    return this.#disk.durableEnd
  }

  get flushLsn(): Lsn {
    return this.acceptor?.flushLsn ?? this.#startLsn
  }

  get lastLogTerm(): number {
    return this.acceptor?.lastLogTerm ?? -1
  }

  durableBytes(from: Lsn, to: Lsn): Buffer {
    return this.#disk.bytes(from, to)
  }

  boot(): void {
    this.#life += 1
    const control = decodeControlState(this.#disk.control)
    const scanner = new RecordScanner(control.commitLsn)
    scanner.feed(this.#disk.bytes(control.commitLsn, this.#disk.capacityEnd))
    const flushLsn = scanner.recordEndLsn
    this.#disk.cleanAfter(flushLsn)
    if (flushLsn < this.#ackedEnd || !this.#ackedBytesIntact()) {
      throw new Violation('I8', `safekeeper ${this.id} lost what it had acknowledged`)
    }
    this.#trace(`boot term ${control.term} commit ${control.commitLsn} flush ${flushLsn}`)
    this.acceptor = new Acceptor({
      nodeId: this.id,
      incarnation: String(this.id).padStart(32, '0'),
      control,
      flushLsn,
    })
    this.#queue = []
    this.#busy = false
    this.#syncing = false
    this.#controlQueue = []
    this.#flushWaiters = []
    this.#every(3000, () => this.dispatch({ kind: 'save' }))
  }

  crash(): void {
    if (this.acceptor === null) return
    this.#trace('crash')
    this.crashes += 1
    this.#life += 1
    this.acceptor = null
    this.#disk.crash(this.#options.random)
    for (const { connection } of this.#connections.values()) connection.break()
    this.#connections.clear()
    this.#options.onCrash(this)
  }

  /** A proposer connects; returns the server end. */
  accept(open: (end: Endpoint) => Connection, proposerId: string): void {
    const id = ++this.#connectionCounter
    const life = this.#life
    const connection = open({
      receive: (bytes) => {
        if (this.#life !== life || !this.#connections.has(id)) return
        this.dispatch({ kind: 'message', connection: id, message: decodeProposerMessage(bytes) })
      },
      broken: () => {
        if (this.#life !== life || !this.#connections.delete(id)) return
        this.dispatch({ kind: 'disconnected', connection: id })
      },
    })
    this.#connections.set(id, { connection, proposerId })
  }

  dispatch(event: AcceptorEvent): void {
    const { acceptor } = this
    if (acceptor === null) return
    const effects = acceptor.step(event)
    for (const effect of this.#mutate(effects)) {
      this.#queue.push(
        effect.kind === 'write' ? { ...effect, wal: Buffer.from(effect.wal) } : effect,
      )
    }
    this.#run()
  }

  #mutate(effects: AcceptorEffect[]): AcceptorEffect[] {
    const { mutation } = this.#options
    if (mutation === 'vote-without-flush')
      return effects.filter((effect) => effect.kind !== 'flush')
    if (mutation === 'history-before-truncate') {
      const rank = (effect: AcceptorEffect) => (effect.kind === 'truncate' ? 1 : 0)
      const moved = effects.filter((effect) => effect.kind !== 'send')
      const sends = effects.filter((effect) => effect.kind === 'send')
      return [...moved.sort((a, b) => rank(a) - rank(b)), ...sends]
    }
    if (mutation === 'vote-not-durable') {
      return effects.map((effect) =>
        effect.kind === 'persist' ? { ...effect, background: true } : effect,
      )
    }
    return effects
  }

  #run(): void {
    while (!this.#busy && this.acceptor !== null) {
      const effect = this.#queue.shift()
      if (effect === undefined) return
      if (this.#options.random.chance(this.crashChance)) {
        this.crash()
        return
      }
      this.#perform(effect)
    }
  }

  #perform(effect: AcceptorEffect): void {
    switch (effect.kind) {
      case 'send':
        this.#send(effect.connection, effect.message)
        break
      case 'close': {
        const closing = this.#connections.get(effect.connection)
        this.#trace(`closes: ${effect.reason}`)
        this.#connections.delete(effect.connection)
        closing?.connection.break()
        break
      }
      case 'write':
        this.#disk.write(effect.lsn, effect.wal)
        if (this.#options.mutation === 'ack-written') {
          const writeLsn = effect.lsn + effect.wal.length
          this.#after(0, () => this.dispatch({ kind: 'flushed', epoch: effect.epoch, writeLsn }))
        }
        this.#sync(effect.epoch)
        break
      case 'flush':
        if (!this.#disk.hasPending) break
        this.#busy = true
        this.#flushWaiters.push(() => this.#resume())
        break
      case 'truncate':
        this.truncations += 1
        this.#trace(`truncates at ${effect.lsn}`)
        this.#busy = true
        this.#truncate(effect.lsn)
        break
      case 'persist':
        if (!effect.background) this.#busy = true
        this.#controlQueue.push({
          control: effect.control,
          done: () => {
            if (!effect.background) this.#resume()
          },
        })
        if (this.#controlQueue.length === 1) this.#writeControl()
        break
      case 'committed':
      case 'answer':
        break
      case 'halt':
        throw new Violation('I10', `safekeeper ${this.id} halts: ${effect.reason}`)
    }
  }

  #resume(): void {
    this.#busy = false
    this.#run()
  }

  #sync(epoch: number): void {
    if (this.#syncing || !this.#disk.hasPending) return
    this.#syncing = true
    const count = this.#disk.pendingCount
    this.#after(this.#diskDelay(), () => {
      this.#syncing = false
      if (this.#disk.pendingCount < count) return
      const writeLsn = this.#disk.sync(count)
      if (this.#options.mutation !== 'ack-written') {
        this.dispatch({ kind: 'flushed', epoch, writeLsn })
      }
      if (!this.#disk.hasPending) {
        const waiters = this.#flushWaiters
        this.#flushWaiters = []
        for (const resolve of waiters) resolve()
      }
      this.#sync(epoch)
    })
  }

  #truncate(lsn: Lsn): void {
    if (this.#syncing) {
      this.#after(1, () => this.#truncate(lsn))
      return
    }
    this.#disk.beginTruncate(lsn)
    if (lsn < this.#ackedEnd) this.#ackedEnd = lsn
    this.#after(this.#diskDelay(), () => {
      this.#disk.endTruncate(lsn)
      this.#resume()
    })
  }

  #writeControl(): void {
    const next = this.#controlQueue[0]
    if (next === undefined) return
    this.#disk.beginControl(encodeControlState(next.control))
    this.#after(this.#diskDelay(), () => {
      this.#disk.endControl()
      this.#controlQueue.shift()
      this.#writeControl()
      this.dispatch({ kind: 'persisted', commitLsn: next.control.commitLsn })
      next.done()
    })
  }

  #send(id: number, message: AcceptorMessage): void {
    const target = this.#connections.get(id)
    if (target === undefined) return
    const durable = decodeControlState(this.#disk.control)
    if (message.term > durable.term) {
      throw new Violation(
        'I1',
        `safekeeper ${this.id} tells term ${message.term} before it is stored`,
      )
    }
    let sent = message
    if (message.kind === 'vote') {
      if (message.given) this.#options.oracle.vote(this.id, message.term, target.proposerId)
      this.#checkDurable(message.flushLsn)
      if (this.#options.mutation === 'cut-below') {
        const history = message.history.filter((entry) => entry.startLsn < message.flushLsn)
        sent = { ...message, history: history.length > 0 ? history : message.history.slice(0, 1) }
      }
    }
    if (message.kind === 'ack' && message.flushLsn > 0) {
      this.#checkDurable(message.flushLsn)
      this.#remember(message.flushLsn)
    }
    this.#trace(`sends ${sent.kind} term ${sent.term}`)
    target.connection.send(1, encodeAcceptorMessage(sent))
  }

  #checkDurable(lsn: Lsn): void {
    if (this.#disk.durableEnd < lsn) {
      throw new Violation('I8', `safekeeper ${this.id} tells ${lsn} before it is durable`)
    }
  }

  #remember(lsn: Lsn): void {
    if (lsn <= this.#ackedEnd) return
    this.#disk.bytes(this.#ackedEnd, lsn).copy(this.#acked, this.#ackedEnd - this.#startLsn)
    this.#ackedEnd = lsn
  }

  #ackedBytesIntact(): boolean {
    const length = this.#ackedEnd - this.#startLsn
    return this.#disk.bytes(this.#startLsn, this.#ackedEnd).equals(this.#acked.subarray(0, length))
  }

  #diskDelay(): number {
    return 0.05 + this.#options.random.next() * this.#options.maxDiskDelayMs
  }

  #after(delayMs: number, run: () => void): void {
    const life = this.#life
    this.#options.scheduler.after(delayMs, () => {
      if (this.#life === life) run()
    })
  }

  #every(delayMs: number, run: () => void): void {
    this.#after(delayMs, () => {
      run()
      this.#every(delayMs, run)
    })
  }

  #trace(what: string): void {
    this.#options.scheduler.trace(`sk${this.id} ${what}`)
  }
}
