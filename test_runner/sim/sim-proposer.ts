/**
 * A compute in virtual time: the real proposer core, and in place of Postgres a writer of synthetic
 * but valid WAL whose bytes differ from term to term.
 */
import type { Lsn } from '#libs/lsn.ts'
import { quorumLsn } from '#libs/protocol/quorum.ts'
import {
  decodeAcceptorMessage,
  encodeProposerMessage,
  type Member,
} from '#libs/protocol/wal-push.ts'
import { RMGR, XLOG_INFO } from '#libs/wal/format.ts'
import { ProposerCore } from '../../compute/proposer/core.ts'
import type { ProposerEffect, ProposerEvent } from '../../compute/proposer/events.ts'
import { buildPayload, WalBuilder } from '../fixtures/wal-builder.ts'
import { Connection, type NetworkOptions } from './network.ts'
import { DISK_BYTES } from './disk.ts'
import type { Oracle } from './oracle.ts'
import type { Prng } from './prng.ts'
import type { Scheduler } from './scheduler.ts'
import type { SimSafekeeper } from './sim-safekeeper.ts'

const CHECKPOINT_BYTES = 90
const TICK_MS = 100

/** Commits by acks below the start of the term too, as a leader without that rule would. */
class HastyCore extends ProposerCore {
  protected override quorumCommitLsn(): Lsn {
    const acked = new Map(this.nodes().map((node) => [node.id, node.ackedLsn]))
    return quorumLsn(this.configuration, (id) => acked.get(id) ?? 0)
  }
}

export interface SimProposerOptions {
  name: string
  tenantId: string
  timelineId: string
  members: Member[]
  systemId: bigint
  safekeepers: ReadonlyMap<number, SimSafekeeper>
  scheduler: Scheduler
  random: Prng
  network: NetworkOptions
  oracle: Oracle
  /** End of the WAL that this run may write: what the simulated disks hold. */
  limitLsn: Lsn
  maxWritePauseMs: number
  hasty: boolean
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
  readonly name: string
  readonly core: ProposerCore
  readonly #options: SimProposerOptions
  readonly #proposerId: string
  readonly #links = new Map<number, Connection>()
  #fetchEpoch = new Map<number, number>()
  /** What this compute has written from the start of its term on; null until it may write. */
  #wal: { readonly bytes: Buffer; endLsn: Lsn; previousLsn: Lsn } | null = null
  #windowStart: Lsn = 0
  /** Where this compute's own WAL begins: the start of the first term that it settled. */
  #startLsn: Lsn = 0
  reelections = 0
  alive = true
  fenced = false

  constructor(options: SimProposerOptions) {
    this.#options = options
    this.name = options.name
    this.#proposerId = Buffer.from(options.name.padEnd(16, '.')).toString('hex').slice(0, 32)
    const Core = options.hasty ? HastyCore : ProposerCore
    this.core = new Core({
      tenantId: options.tenantId,
      timelineId: options.timelineId,
      configuration: { generation: 1, members: options.members, newMembers: null },
      pgVersion: 170011,
      systemId: options.systemId,
      proposerId: this.#proposerId,
      random: () => options.random.next(),
    })
    this.#step({ kind: 'start', nowMs: options.scheduler.nowMs })
    this.#tick()
  }

  /** Whether a quorum has the log up to the start of its term: it may write. */
  get ready(): boolean {
    return this.core.phase === 'elected' && this.core.commitLsn >= this.core.termStartLsn
  }

  get endLsn(): Lsn {
    return this.#wal?.endLsn ?? this.#startLsn
  }

  crash(): void {
    if (!this.alive) return
    this.#trace('crash')
    this.alive = false
    for (const link of this.#links.values()) link.break()
    this.#links.clear()
  }

  #tick(): void {
    this.#options.scheduler.after(TICK_MS, () => {
      if (!this.alive || this.fenced) return
      this.#step({ kind: 'tick', nowMs: this.#options.scheduler.nowMs })
      this.#tick()
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
        this.#links.get(effect.node)?.send(0, encodeProposerMessage(effect.message))
        break
      case 'fetch':
        this.#fetch(effect)
        break
      case 'elected':
        this.#trace(`elected term ${effect.term} at ${effect.startLsn}`)
        this.#options.oracle.elected(this.name, effect.term, effect.startLsn)
        this.#options.oracle.history(this.core.history)
        this.#wal = null
        this.#startLsn = effect.startLsn
        this.#windowStart = effect.startLsn
        break
      case 're-elected':
        this.#trace(`re-elected term ${effect.term} at ${effect.startLsn}`)
        this.#options.oracle.elected(this.name, effect.term, effect.startLsn)
        this.#options.oracle.history(this.core.history)
        this.reelections += 1
        break
      case 'committed':
        this.#onCommitted(effect.lsn)
        break
      case 'fenced':
        this.#trace(`fenced: ${effect.reason}`)
        this.fenced = true
        for (const link of this.#links.values()) link.break()
        this.#links.clear()
    }
  }

  #onCommitted(lsn: Lsn): void {
    const startLsn = this.#startLsn
    const bytes = this.#wal?.bytes ?? Buffer.alloc(0)
    this.#trace(`commits ${lsn}`)
    const { oracle, safekeepers } = this.#options
    oracle.commit(lsn, { term: this.core.term, startLsn, bytes }, [...safekeepers.values()])
    if (this.#wal === null) {
      // Now a compute may start at the elected position; its first record is a checkpoint.
      this.#wal = { bytes: Buffer.alloc(DISK_BYTES), endLsn: startLsn, previousLsn: 0 }
      if (this.#options.writes) {
        this.#append((wal) => {
          const payload = this.#payload(CHECKPOINT_BYTES)
          wal.append(RMGR.XLOG, XLOG_INFO.CHECKPOINT_SHUTDOWN, 0, payload)
        })
        this.#writeLater()
      }
    } else if (this.#options.smallWindow) {
      this.#windowStart = Math.max(this.#windowStart, lsn)
      this.#share()
    }
  }

  #payload(length: number): Buffer {
    const main = Buffer.alloc(length)
    const random = this.#options.random
    for (let offset = 0; offset + 4 <= length; offset += 64) {
      main.writeUInt32LE(random.int(0, 4294967295), offset)
    }
    return buildPayload({ main })
  }

  #writeLater(): void {
    const { scheduler, random, maxWritePauseMs } = this.#options
    scheduler.after(random.next() * maxWritePauseMs, () => {
      const wal = this.#wal
      if (!this.alive || this.fenced || wal === null) return
      if (wal.endLsn < this.#options.limitLsn) {
        this.#append((builder) => {
          for (let count = random.int(1, 4); count > 0; count -= 1) {
            const length = random.chance(0.02) ? random.int(9_000, 40_000) : random.int(8, 1500)
            builder.append(RMGR.XLOG, XLOG_INFO.NOOP, this.core.term, this.#payload(length))
          }
        })
        this.#pump()
      }
      this.#writeLater()
    })
  }

  #append(build: (builder: WalBuilder) => void): void {
    const wal = this.#wal
    if (wal === null) return
    const builder = new WalBuilder(wal.endLsn, { previousLsn: wal.previousLsn })
    build(builder)
    builder.bytes().copy(wal.bytes, wal.endLsn - this.#startLsn)
    wal.endLsn = builder.lsn
    wal.previousLsn = builder.previousLsn
    this.#share()
  }

  #share(): void {
    const endLsn = this.endLsn
    this.core.step({ kind: 'window', startLsn: this.#windowStart, endLsn })
  }

  #connect(id: number): void {
    const { scheduler, random, network, safekeepers } = this.#options
    this.#unlink(id)
    const safekeeper = safekeepers.get(id) as SimSafekeeper
    scheduler.after(random.next() * 5, () => {
      if (!this.alive || this.fenced || this.#links.has(id)) return
      if (safekeeper.acceptor === null) {
        this.#step({ kind: 'disconnected', node: id, nowMs: scheduler.nowMs })
        return
      }
      safekeeper.accept((end) => {
        const link: Connection = new Connection(scheduler, random, network, [
          {
            receive: (bytes) => {
              if (this.#links.get(id) !== link) return
              const message = decodeAcceptorMessage(bytes)
              this.#step({ kind: 'message', node: id, message, nowMs: scheduler.nowMs })
            },
            broken: () => {
              if (this.#links.get(id) !== link) return
              this.#unlink(id)
              this.#step({ kind: 'disconnected', node: id, nowMs: scheduler.nowMs })
            },
          },
          end,
        ])
        this.#links.set(id, link)
        return link
      }, this.name)
      this.#step({ kind: 'connected', node: id, nowMs: scheduler.nowMs })
    })
  }

  #unlink(id: number): void {
    const link = this.#links.get(id)
    this.#links.delete(id)
    link?.break()
    this.#fetchEpoch.set(id, (this.#fetchEpoch.get(id) ?? 0) + 1)
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
        const startLsn = this.#startLsn
        const bytes = this.#wal?.bytes ?? Buffer.alloc(0)
        const wal = bytes.subarray(header.beginLsn - startLsn, header.endLsn - startLsn)
        link.send(0, encodeProposerMessage({ kind: 'append', ...header, wal }))
      }
    }
    for (const fetch of this.core.wantedFetches()) this.#fetch(fetch)
  }

  /** Reads from the donor's disk as its WAL stream pinned to our term would. */
  #fetch(fetch: Extract<ProposerEffect, { kind: 'fetch' }>): void {
    const { scheduler, random, safekeepers } = this.#options
    const epoch = (this.#fetchEpoch.get(fetch.node) ?? 0) + 1
    this.#fetchEpoch.set(fetch.node, epoch)
    const donor = safekeepers.get(fetch.donor) as SimSafekeeper
    this.#trace(`fetches ${fetch.beginLsn}..${fetch.endLsn} from ${fetch.donor} for ${fetch.node}`)
    const next = (lsn: Lsn): void => {
      scheduler.after(1 + random.next() * 5, () => {
        if (!this.alive || this.fenced || this.#fetchEpoch.get(fetch.node) !== epoch) return
        const acceptor = donor.acceptor
        const end = Math.min(
          fetch.endLsn,
          lsn + random.int(1, this.#options.maxRelayBytes),
          acceptor?.flushLsn ?? 0,
        )
        const usable = acceptor !== null && acceptor.control.term === this.core.term && end > lsn
        const header = usable ? this.core.relay(fetch.node, lsn, end) : null
        if (header === null || random.chance(this.#options.fetchFailChance)) {
          this.#step({ kind: 'fetch-ended', node: fetch.node, complete: false })
          if (header !== null) this.#links.get(fetch.node)?.break()
          return
        }
        const wal = Buffer.from(donor.durableBytes(lsn, end))
        const message = encodeProposerMessage({ kind: 'append', ...header, wal })
        this.#links.get(fetch.node)?.send(0, message)
        if (end < fetch.endLsn) next(end)
        else this.#step({ kind: 'fetch-ended', node: fetch.node, complete: true })
      })
    }
    next(fetch.beginLsn)
  }

  #trace(what: string): void {
    this.#options.scheduler.trace(`${this.name} ${what}`)
  }
}
