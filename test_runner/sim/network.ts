/**
 * The network: ordered byte streams as TCP gives them. Bytes arrive in other pieces than they were
 * sent in; streams can be cut with bytes under way, stay half-open (one end does not know), and be
 * held up in one direction only. Bytes held up arrive later, as retransmission makes them.
 */
import type { FaultKind, Faults } from './faults.ts'
import type { Host } from './host.ts'
import type { Prng } from './prng.ts'
import type { Scheduler } from './scheduler.ts'

export interface NetworkOptions {
  minDelayMs: number
  maxDelayMs: number
  /** Per send: the stream is cut, what is under way is lost. */
  cutChance: number
  /** Per send: only the sender learns that the stream is gone, and what it sent still arrives. */
  lateChance: number
  /** Per send: this direction stands still for seconds. */
  clogChance: number
  /** Per send: the bytes arrive in two pieces. */
  splitChance: number
}

export const QUIET: NetworkOptions = {
  minDelayMs: 0.05,
  maxDelayMs: 1,
  cutChance: 0,
  lateChance: 0,
  clogChance: 0,
  splitChance: 0.1,
}

export interface End {
  readonly host: Host
  receive(chunk: Buffer): void
  broken(): void
}

const MAX_NOTICE_MS = 1500
const MAX_CLOG_MS = 15_000

export class Network {
  readonly scheduler: Scheduler
  readonly random: Prng
  options: NetworkOptions
  readonly cut: FaultKind
  readonly late: FaultKind
  readonly clog: FaultKind
  readonly #blockedUntil = new Map<number, number>()
  readonly #links = new Set<Link>()

  constructor(scheduler: Scheduler, random: Prng, faults: Faults, options: NetworkOptions) {
    this.scheduler = scheduler
    this.random = random
    this.options = options
    this.cut = faults.kind('cut')
    this.late = faults.kind('late')
    this.clog = faults.kind('clog')
  }

  /** Nothing gets from one machine to the other for a while; the other way is not affected. */
  block(from: number, to: number, durationMs: number): void {
    this.#blockedUntil.set(from * 1000 + to, this.scheduler.nowMs + durationMs)
  }

  /** How long bytes sent now are held up. */
  blockedMs(from: number, to: number): number {
    if (this.#blockedUntil.size === 0) return 0
    const until = this.#blockedUntil.get(from * 1000 + to) ?? 0
    return Math.max(0, until - this.scheduler.nowMs)
  }

  delayMs(): number {
    const { minDelayMs, maxDelayMs } = this.options
    return minDelayMs + this.random.next() * (maxDelayMs - minDelayMs)
  }

  /** Everything flows from now on; what was held up long before is lost with its stream. */
  heal(): void {
    this.options = QUIET
    this.#blockedUntil.clear()
    for (const link of [...this.#links]) link.reset()
  }

  /** A stream between two machines whose ends both live. */
  open(ends: readonly [End, End]): Link {
    const link = new Link(this, ends)
    this.#links.add(link)
    return link
  }

  forget(link: Link): void {
    this.#links.delete(link)
  }

  /** A machine went away; with `silently` its peers learn it only when they send something. */
  hostDied(host: Host, silently: boolean): void {
    for (const link of [...this.#links]) link.hostDied(host, silently)
  }
}

interface Direction {
  arrivesMs: number
  queue: { atMs: number; bytes: Buffer }[]
}

export class Link {
  readonly #network: Network
  readonly #ends: readonly [End, End]
  readonly #directions: readonly [Direction, Direction] = [
    { arrivesMs: 0, queue: [] },
    { arrivesMs: 0, queue: [] },
  ]
  /** Ends that take part no more: closed, or told that the stream is gone. */
  readonly #gone: [boolean, boolean] = [false, false]
  #cut = false

  constructor(network: Network, ends: readonly [End, End]) {
    this.#network = network
    this.#ends = ends
  }

  /** Sends bytes from one end (0 or 1); the buffer must not change afterwards. */
  send(from: 0 | 1, bytes: Buffer): void {
    if (this.#gone[from] || this.#cut) return
    const network = this.#network
    const { cutChance, lateChance, clogChance, splitChance } = network.options
    if (network.cut.fires(cutChance)) {
      this.reset()
      return
    }
    let delayMs = network.delayMs()
    if (network.clog.fires(clogChance)) delayMs += network.clog.random.next() * MAX_CLOG_MS
    const at = bytes.length > 1 && network.random.chance(splitChance)
    if (at) {
      const cut = network.random.int(1, bytes.length - 1)
      this.#push(from, bytes.subarray(0, cut), delayMs)
      this.#push(from, bytes.subarray(cut), delayMs + network.delayMs())
    } else this.#push(from, bytes, delayMs)
    if (network.late.fires(lateChance)) this.#tell(from)
  }

  /** One end closes in order: what it sent still arrives, then the other end learns it. */
  close(from: 0 | 1): void {
    if (this.#gone[from]) return
    this.#leave(from)
    const direction = this.#directions[from]
    const blockedMs = this.#blockedMs(from)
    const atMs = Math.max(
      direction.arrivesMs,
      this.#network.scheduler.nowMs + blockedMs + this.#network.delayMs(),
    )
    this.#network.scheduler.at(atMs, () => this.#tell(from === 0 ? 1 : 0))
  }

  /** What is under way is lost; each end learns it in its own time. */
  reset(): void {
    this.#cut = true
    for (const side of [0, 1] as const) {
      this.#directions[side].queue = []
      if (this.#gone[side]) continue
      const delayMs = this.#network.random.next() * MAX_NOTICE_MS
      this.#network.scheduler.after(delayMs, () => this.#tell(side))
    }
  }

  hostDied(host: Host, silently: boolean): void {
    for (const side of [0, 1] as const) {
      if (this.#ends[side].host !== host || this.#gone[side]) continue
      if (silently) this.#leave(side)
      else this.close(side)
    }
  }

  #blockedMs(from: 0 | 1): number {
    return this.#network.blockedMs(this.#ends[from].host.id, this.#ends[1 - from]?.host.id ?? 0)
  }

  #push(from: 0 | 1, bytes: Buffer, delayMs: number): void {
    const { scheduler } = this.#network
    const direction = this.#directions[from]
    const blockedMs = this.#blockedMs(from)
    const atMs = Math.max(direction.arrivesMs, scheduler.nowMs + blockedMs + delayMs)
    direction.arrivesMs = atMs
    direction.queue.push({ atMs, bytes })
    scheduler.at(atMs, () => this.#deliver(from))
  }

  /** Hands over everything that has arrived by now, as one piece. */
  #deliver(from: 0 | 1): void {
    const { queue } = this.#directions[from]
    const nowMs = this.#network.scheduler.nowMs
    const pieces: Buffer[] = []
    while (queue.length > 0 && (queue[0] as { atMs: number }).atMs <= nowMs) {
      pieces.push((queue.shift() as { bytes: Buffer }).bytes)
    }
    if (pieces.length === 0) return
    const to = from === 0 ? 1 : 0
    const end = this.#ends[to]
    if (this.#gone[to]) {
      // Nobody is there: the sender gets a reset for an answer.
      this.#network.scheduler.after(this.#network.delayMs(), () => this.#tell(from))
      return
    }
    const chunk = pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)
    end.host.run(() => {
      if (!this.#gone[to]) end.receive(chunk)
    })
  }

  #tell(side: 0 | 1): void {
    if (this.#gone[side]) return
    this.#leave(side)
    const end = this.#ends[side]
    end.host.run(() => end.broken())
  }

  #leave(side: 0 | 1): void {
    this.#gone[side] = true
    if (this.#gone[0] && this.#gone[1]) this.#network.forget(this)
  }
}
