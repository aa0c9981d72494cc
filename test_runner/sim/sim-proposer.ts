/**
 * A compute in virtual time: the real proposer core, and in place of Postgres a writer of synthetic
 * but valid WAL whose bytes differ from term to term.
 */
import type { Lsn } from '#libs/lsn.ts'
import { FrameReader } from '#libs/pgwire/frame-reader.ts'
import {
  decodeAcceptorMessage,
  encodeProposerMessage,
  type MemberConfiguration,
} from '#libs/protocol/wal-push.ts'
import { RMGR, XLOG_INFO } from '#libs/wal/format.ts'
import type { ProposerCore } from '../../compute/proposer/core.ts'
import type { AppendHeader, ProposerEffect, ProposerEvent } from '../../compute/proposer/events.ts'
import { buildPayload, WalBuilder } from '../fixtures/wal-builder.ts'
import type { Coverage } from './coverage.ts'
import type { FaultKind, Faults } from './faults.ts'
import { copyDataFrame, MAX_FRAME_BYTES } from './frames.ts'
import { type Clock, Host } from './host.ts'
import { type Mutation, proposerCore } from './mutations.ts'
import type { Link, Network } from './network.ts'
import type { Oracle } from './oracle.ts'
import type { Prng } from './prng.ts'
import type { SimSafekeeper } from './sim-safekeeper.ts'

const CHECKPOINT_BYTES = 90
const TICK_MS = 100
const CONNECT_TIMEOUT_MS = 5000

export interface SimProposerOptions {
  id: number
  tenantId: string
  timelineId: string
  configuration: MemberConfiguration
  systemId: bigint
  safekeepers: ReadonlyMap<number, SimSafekeeper>
  network: Network
  random: Prng
  faults: Faults
  oracle: Oracle
  coverage: Coverage
  clock: Clock
  mutation: Mutation | null
  /** End of the WAL that this run may write: what the simulated disks hold. */
  limitLsn: Lsn
  maxWritePauseMs: number
  /** False: like a sync without a compute, it wins and commits but writes nothing of its own. */
  writes: boolean
  /** WAL bytes in one piece of a fetch at most. */
  maxRelayBytes: number
  /** Per piece of a fetch. */
  fetchFailChance: number
  /** Keep only little WAL in the window, so that laggards must fetch. */
  smallWindow: boolean
}

export class SimProposer {
  readonly host: Host
  readonly core: ProposerCore
  readonly #options: SimProposerOptions
  readonly #fetchFault: FaultKind
  readonly #links = new Map<number, Link>()
  readonly #fetchEpoch = new Map<number, number>()
  /** What this compute has written, from the position where it began; null until it may write. */
  #baseLsn: Lsn = 0
  #written: Buffer = Buffer.alloc(0)
  #builder: WalBuilder | null = null
  #windowStart: Lsn = 0
  #resting = false
  alive = true
  fenced = false

  constructor(options: SimProposerOptions) {
    this.#options = options
    this.host = new Host(options.id, `wp${options.id}`, options.network.scheduler, options.clock)
    this.#fetchFault = options.faults.kind('broken-fetch')
    const Core = proposerCore(options.mutation)
    this.core = new Core({
      tenantId: options.tenantId,
      timelineId: options.timelineId,
      configuration: options.configuration,
      pgVersion: 170011,
      systemId: options.systemId,
      proposerId: options.id.toString(16).padStart(32, '0'),
      random: () => options.random.next(),
    })
    this.#step({ kind: 'start', nowMs: this.host.nowMs() })
    this.#tick()
  }

  get name(): string {
    return this.host.name
  }

  /** Whether a quorum has the log up to the start of its term: it may write. */
  get ready(): boolean {
    return this.core.phase === 'elected' && this.core.commitLsn >= this.core.termStartLsn
  }

  /** It has written all that this run may write. */
  get full(): boolean {
    return this.endLsn >= this.#options.limitLsn
  }

  get endLsn(): Lsn {
    return this.#builder?.lsn ?? this.#windowStart
  }

  /** Writes nothing more. */
  rest(): void {
    this.#resting = true
  }

  crash(): void {
    if (!this.alive) return
    this.#trace('is killed')
    this.alive = false
    this.host.die()
    this.#options.network.hostDied(this.host, false)
    this.#links.clear()
  }

  #tick(): void {
    this.host.after(TICK_MS, () => {
      this.#step({ kind: 'tick', nowMs: this.host.nowMs() })
      if (!this.fenced) this.#tick()
    })
  }

  #step(event: ProposerEvent): void {
    if (!this.alive || this.fenced) return
    for (const effect of this.core.step(event)) this.#perform(effect)
    this.#pump()
  }

  #perform(effect: ProposerEffect): void {
    switch (effect.kind) {
      case 'connect':
        this.#connect(effect.node)
        break
      case 'disconnect':
        this.#unlink(effect.node)
        break
      case 'send':
        this.#links.get(effect.node)?.send(0, copyDataFrame(encodeProposerMessage(effect.message)))
        break
      case 'fetch':
        this.#fetch(effect)
        break
      case 'elected':
      case 're-elected':
        this.#onElected(effect.term, effect.startLsn, effect.kind === 're-elected')
        break
      case 'deposed':
        this.#trace('is deposed')
        this.#options.coverage.count('deposed computes')
        break
      case 'committed':
        this.#onCommitted(effect.lsn)
        break
      case 'fenced':
        this.#trace('is fenced')
        this.#options.coverage.count('fenced computes')
        this.fenced = true
        for (const link of this.#links.values()) link.close(0)
        this.#links.clear()
    }
  }

  #leader() {
    const { core } = this
    return {
      name: this.name,
      term: core.term,
      termStartLsn: core.termStartLsn,
      history: core.history,
      configuration: core.configuration,
      baseLsn: this.#builder === null ? core.termStartLsn : this.#baseLsn,
      written: this.#written,
    }
  }

  #onElected(term: number, startLsn: Lsn, again: boolean): void {
    this.#trace(again ? 'is elected again' : 'is elected', term, startLsn)
    const { oracle, coverage } = this.#options
    coverage.count(again ? 'elections in place' : 'elections')
    if (this.core.configuration.newMembers !== null) coverage.count('joint elections')
    oracle.elected(this.#leader())
    if (!again) this.#windowStart = startLsn
  }

  #onCommitted(lsn: Lsn): void {
    this.#trace('commits', lsn, this.core.term)
    const { oracle, safekeepers } = this.#options
    oracle.commit(lsn, this.#leader(), safekeepers)
    if (this.#builder === null) {
      // Now a compute may start at the elected position; its first record is a checkpoint.
      this.#baseLsn = this.core.termStartLsn
      this.#builder = new WalBuilder(this.#baseLsn)
      if (this.#options.writes) {
        const payload = this.#payload(CHECKPOINT_BYTES)
        this.#append(() => [{ info: XLOG_INFO.CHECKPOINT_SHUTDOWN, payload }])
        this.#writeLater()
      }
    } else if (this.#options.smallWindow) {
      this.#windowStart = Math.max(this.#windowStart, lsn)
      this.#share()
    }
  }

  #payload(length: number): Buffer {
    const main = Buffer.alloc(length)
    const { random } = this.#options
    for (let offset = 0; offset + 4 <= length; offset += 256) {
      main.writeUInt32LE(random.int(0, 4294967295), offset)
    }
    return buildPayload({ main })
  }

  #writeLater(): void {
    const { random, maxWritePauseMs, limitLsn } = this.#options
    this.host.after(random.next() * maxWritePauseMs, () => {
      if (this.fenced || this.#resting) return
      if (this.endLsn < limitLsn) {
        this.#append(() =>
          Array.from({ length: random.int(1, 4) }, () => ({
            info: XLOG_INFO.NOOP,
            payload: this.#payload(
              random.chance(0.02) ? random.int(9_000, 40_000) : random.int(8, 1500),
            ),
          })),
        )
        this.#pump()
      }
      this.#writeLater()
    })
  }

  #append(records: () => { info: number; payload: Buffer }[]): void {
    const before = this.#builder
    if (before === null) return
    const builder = new WalBuilder(before.lsn, { previousLsn: before.previousLsn })
    for (const { info, payload } of records()) {
      builder.append(RMGR.XLOG, info, this.core.term, payload)
      this.#options.oracle.wroteRecord(this.name, builder.lsn)
    }
    const bytes = builder.bytes()
    const end = builder.lsn - this.#baseLsn
    if (end > this.#written.length) {
      const grown = Buffer.alloc(Math.max(65_536, 2 * end))
      this.#written.copy(grown)
      this.#written = grown
    }
    bytes.copy(this.#written, before.lsn - this.#baseLsn)
    this.#builder = builder
    this.#share()
  }

  #share(): void {
    this.core.step({ kind: 'window', startLsn: this.#windowStart, endLsn: this.endLsn })
  }

  #connect(id: number): void {
    const { random, network, safekeepers } = this.#options
    this.#unlink(id)
    const safekeeper = safekeepers.get(id)
    const there = safekeeper === undefined ? 0 : network.blockedMs(this.host.id, id)
    const back = safekeeper === undefined ? 0 : network.blockedMs(id, this.host.id)
    const delayMs = Math.max(there, back) + network.delayMs() + random.next() * 4
    const failed = () => {
      if (!this.#links.has(id)) {
        this.#step({ kind: 'disconnected', node: id, nowMs: this.host.nowMs() })
      }
    }
    if (delayMs > CONNECT_TIMEOUT_MS) {
      this.host.after(CONNECT_TIMEOUT_MS, failed)
      return
    }
    const epoch = this.#nextEpoch(id)
    this.host.after(delayMs, () => {
      if (this.fenced || this.#links.has(id) || this.#fetchEpoch.get(id) !== epoch) return
      if (safekeeper === undefined || safekeeper.acceptor === null) failed()
      else this.#occupy(id, safekeeper, epoch, failed)
    })
  }

  /** The timeline has to be on the safekeeper's disk before anybody writes to it. */
  #occupy(id: number, safekeeper: SimSafekeeper, epoch: number, failed: () => void): void {
    let open = true
    safekeeper.occupy((leave) => {
      this.host.run(() => {
        const isWanted = open && this.alive && !this.fenced && this.#fetchEpoch.get(id) === epoch
        open = false
        if (isWanted && !this.#links.has(id)) {
          if (leave !== null && safekeeper.acceptor !== null) this.#attach(id, safekeeper)
          else failed()
        }
        leave?.()
      })
    })
    if (!open) return
    this.host.after(CONNECT_TIMEOUT_MS, () => {
      if (open && this.#fetchEpoch.get(id) === epoch) failed()
      open = false
    })
  }

  #attach(id: number, safekeeper: SimSafekeeper): void {
    const reader = new FrameReader(MAX_FRAME_BYTES, (_tag, body) => {
      if (this.#links.get(id) !== link) return
      const message = decodeAcceptorMessage(body)
      this.#step({ kind: 'message', node: id, message, nowMs: this.host.nowMs() })
    })
    let link: Link
    safekeeper.accept((end) => {
      link = this.#options.network.open([
        {
          host: this.host,
          receive: (chunk) => {
            if (this.#links.get(id) === link) reader.push(chunk)
          },
          broken: () => {
            if (this.#links.get(id) !== link) return
            this.#unlink(id)
            this.#step({ kind: 'disconnected', node: id, nowMs: this.host.nowMs() })
          },
        },
        end,
      ])
      this.#links.set(id, link)
      return link
    }, this.name)
    this.#step({ kind: 'connected', node: id, nowMs: this.host.nowMs() })
  }

  #nextEpoch(id: number): number {
    const epoch = (this.#fetchEpoch.get(id) ?? 0) + 1
    this.#fetchEpoch.set(id, epoch)
    return epoch
  }

  #unlink(id: number): void {
    const link = this.#links.get(id)
    this.#links.delete(id)
    link?.close(0)
    this.#nextEpoch(id)
  }

  #pump(): void {
    if (this.core.phase !== 'elected') return
    const news = this.#options.random.chance(0.5)
    for (const [id, link] of this.#links) {
      for (
        let header = this.core.nextAppend(id, news);
        header;
        header = this.core.nextAppend(id, news)
      ) {
        const { beginLsn, endLsn } = header
        const wal = this.#written.subarray(beginLsn - this.#baseLsn, endLsn - this.#baseLsn)
        this.#sendAppend(link, header, beginLsn === endLsn ? Buffer.alloc(0) : wal)
      }
    }
    for (const fetch of this.core.wantedFetches()) this.#fetch(fetch)
  }

  #sendAppend(link: Link, header: AppendHeader, wal: Buffer): void {
    link.send(0, copyDataFrame(encodeProposerMessage({ kind: 'append', ...header, wal })))
  }

  /** Reads from the donor's disk as its WAL stream pinned to our term would. */
  #fetch(fetch: Extract<ProposerEffect, { kind: 'fetch' }>): void {
    const { random, safekeepers, network, coverage } = this.#options
    const epoch = this.#nextEpoch(fetch.node)
    const donor = safekeepers.get(fetch.donor) as SimSafekeeper
    coverage.count('fetches')
    this.#trace('fetches', fetch.beginLsn, fetch.donor)
    const next = (lsn: Lsn): void => {
      const blockedMs = network.blockedMs(fetch.donor, this.host.id)
      this.host.after(1 + blockedMs + random.next() * 5, () => {
        if (this.fenced || this.#fetchEpoch.get(fetch.node) !== epoch) return
        const end = Math.min(
          fetch.endLsn,
          lsn + random.int(1, this.#options.maxRelayBytes),
          donor.acceptor?.flushLsn ?? 0,
        )
        let open = true
        const read = (isThere: boolean): void => {
          if (open) this.host.run(() => relay(lsn, end, isThere))
          open = false
        }
        donor.reach(end, read)
        if (open) this.host.after(CONNECT_TIMEOUT_MS, () => read(false))
      })
    }
    const relay = (lsn: Lsn, end: Lsn, isThere: boolean): void => {
      if (this.fenced || this.#fetchEpoch.get(fetch.node) !== epoch) return
      const isOfTerm = donor.acceptor?.control.term === this.core.term
      const usable = isThere && isOfTerm && end > lsn
      const header = usable ? this.core.relay(fetch.node, lsn, end) : null
      if (header === null || this.#fetchFault.fires(this.#options.fetchFailChance)) {
        coverage.count('broken fetches')
        this.#step({ kind: 'fetch-ended', node: fetch.node, complete: false })
        if (header !== null) this.#links.get(fetch.node)?.reset()
        return
      }
      const link = this.#links.get(fetch.node)
      if (link) this.#sendAppend(link, header, Buffer.from(donor.readWal(lsn, end)))
      if (end < fetch.endLsn) next(end)
      else this.#step({ kind: 'fetch-ended', node: fetch.node, complete: true })
    }
    next(fetch.beginLsn)
  }

  #trace(what: string, a = 0, b = 0): void {
    this.#options.network.scheduler.trace(this.name, what, a, b)
  }
}
