/**
 * A page server in virtual time, as a reader of committed WAL: it streams from one safekeeper at a
 * time, goes to another when that one is away, behind or silent, loses what it had in memory when it
 * restarts, and says how far it got. The oracle compares every byte that it is given.
 */
import type { Lsn } from '#libs/lsn.ts'
import type { Coverage } from './coverage.ts'
import { Host } from './host.ts'
import type { Network } from './network.ts'
import { type Oracle, Violation } from './oracle.ts'
import type { Prng } from './prng.ts'
import type { SimSafekeeper } from './sim-safekeeper.ts'

const POLL_MS = 100
const MAX_BYTES = 60_000
const SWITCH_CHANCE = 0.05

export interface SimReaderOptions {
  id: number
  startLsn: Lsn
  safekeepers: ReadonlyMap<number, SimSafekeeper>
  network: Network
  random: Prng
  oracle: Oracle
  coverage: Coverage
}

export class SimReader {
  readonly host: Host
  readonly #options: SimReaderOptions
  #source: number | null = null
  /** last_received >= disk_consistent >= remote_consistent, the last durable elsewhere. */
  #received: Lsn
  #onDisk: Lsn
  #remote: Lsn

  constructor(options: SimReaderOptions) {
    this.#options = options
    this.host = new Host(options.id, `reader${options.id}`, options.network.scheduler, {
      offsetMs: 0,
      rate: 1,
    })
    this.#received = options.startLsn
    this.#onDisk = options.startLsn
    this.#remote = options.startLsn
    this.#poll()
  }

  get received(): Lsn {
    return this.#received
  }

  /** Forgets what was in memory only; what it had in object storage stays. */
  restart(): void {
    this.#options.coverage.count('page server restarts')
    this.host.die()
    this.#received = this.#onDisk
    this.#source = null
    this.#poll()
  }

  #poll(): void {
    const { random } = this.#options
    this.host.after(POLL_MS * (0.5 + random.next()), () => {
      this.#read()
      if (random.chance(0.2)) this.#onDisk = this.#received
      if (random.chance(0.1)) this.#remote = this.#onDisk
      this.#poll()
    })
  }

  #read(): void {
    const { safekeepers, random, network, coverage } = this.#options
    if (this.#source === null || random.chance(SWITCH_CHANCE)) {
      this.#source = random.pick([...safekeepers.keys()])
      coverage.count('page server chooses a safekeeper')
    }
    const id = this.#source
    const from = this.#received
    const there = network.delayMs() + network.blockedMs(this.host.id, id)
    const back = network.delayMs() + network.blockedMs(id, this.host.id)
    const safekeeper = safekeepers.get(id) as SimSafekeeper
    const { life } = this.host
    network.scheduler.after(there, () => {
      safekeeper.host.run(() => {
        const { acceptor } = safekeeper
        if (acceptor === null) {
          this.#source = null
          return
        }
        this.#tell(safekeeper)
        const end = Math.min(acceptor.commitLsn, from + MAX_BYTES)
        if (end < from) coverage.count('page server is ahead of its safekeeper')
        if (end <= from) {
          this.#source = null
          return
        }
        safekeeper.reach(end, (isThere) => {
          if (!isThere) {
            this.#source = null
            return
          }
          const wal = Buffer.from(safekeeper.readWal(from, end))
          network.scheduler.after(back, () => {
            this.host.run(() => {
              if (this.host.life === life) this.#take(from, wal)
            })
          })
        })
      })
    })
  }

  #take(from: Lsn, wal: Buffer): void {
    // An answer that came late, after another: its bytes are here already.
    if (from !== this.#received) return
    this.#options.oracle.read(this.host.name, from, wal)
    this.#received = from + wal.length
  }

  /** Feedback rides on the same stream. */
  #tell(safekeeper: SimSafekeeper): void {
    if (this.#remote > this.#onDisk || this.#onDisk > this.#received) {
      throw new Violation('I23', `${this.host.name} has its positions out of order`)
    }
    safekeeper.feedback(this.#received, this.#onDisk, this.#remote)
  }
}
