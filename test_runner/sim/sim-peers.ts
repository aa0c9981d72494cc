/**
 * What one simulated safekeeper does about its peers: tells them where it is, asks the one that knows
 * more, and catches up from one whose log is better when no compute streams. The real table of peers
 * and the real recovery machine; questions go to the peer itself, over the simulated network.
 */
import type { DiscoveryMessage } from '#libs/discovery/message.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { AcceptorMessage } from '#libs/protocol/wal-push.ts'
import type { PeerPositions } from '../../safekeeper/acceptor.ts'
import { peerToAsk } from '../../safekeeper/peers/peer-news.ts'
import {
  type DonorState,
  PeerRecovery,
  type RecoveryEffect,
} from '../../safekeeper/peers/peer-recovery.ts'
import { PeerTable } from '../../safekeeper/peers/peer-table.ts'
import type { Coverage } from './coverage.ts'
import type { SimDiscovery } from './discovery.ts'
import type { Mutation } from './mutations.ts'
import type { Network } from './network.ts'
import type { Prng } from './prng.ts'
import type { SimSafekeeper } from './sim-safekeeper.ts'

const TICK_MS = 500
const PUBLISH_MS = 1000
const READ_BYTES = 20_000
const QUESTION_TIMEOUT_MS = 5000

export interface SimPeersOptions {
  safekeeper: SimSafekeeper
  safekeepers: ReadonlyMap<number, SimSafekeeper>
  discovery: SimDiscovery
  network: Network
  random: Prng
  coverage: Coverage
  mutation: Mutation | null
}

export class SimPeers {
  readonly #options: SimPeersOptions
  #table: PeerTable
  #machine: PeerRecovery | null = null
  #life = -1
  #connection: number | null = null
  #reading = 0
  /** Lets the own timeline leave the disk again. */
  #leave: () => void = () => {}

  constructor(options: SimPeersOptions) {
    this.#options = options
    this.#table = new PeerTable(options.safekeeper.id)
    const { scheduler } = options.network
    options.discovery.subscribe((message) => {
      this.#table.hear(message, options.safekeeper.host.nowMs())
    })
    const every = (delayMs: number, work: () => void): void => {
      scheduler.after(delayMs, () => {
        options.safekeeper.host.run(work)
        every(delayMs, work)
      })
    }
    every(PUBLISH_MS, () => this.#publish())
    every(TICK_MS, () => this.#tick())
  }

  #publish(): void {
    const { safekeeper, discovery } = this.#options
    const { acceptor } = safekeeper
    if (acceptor === null) return
    const { control } = acceptor
    const message: DiscoveryMessage = {
      tenantId: control.tenantId,
      timelineId: control.timelineId,
      nodeId: safekeeper.id,
      generation: control.configuration.generation,
      term: control.term,
      lastLogTerm: acceptor.lastLogTerm,
      flushLsn: acceptor.flushLsn,
      commitLsn: acceptor.commitLsn,
      backupLsn: control.backupLsn,
      remoteConsistentLsn: control.remoteConsistentLsn,
      peerHorizonLsn: control.peerHorizonLsn,
      localStartLsn: safekeeper.localStartLsn,
      standbyHorizonLsn: null,
      host: safekeeper.host.name,
      pgPort: 5454,
      httpPort: 7676,
      computeConnected: this.#proposerConnected(),
      sentAtMs: Math.round(safekeeper.host.nowMs()),
    }
    discovery.publish(message)
  }

  #proposerConnected(): boolean {
    const streaming = this.#options.safekeeper.acceptor?.streamingConnection ?? null
    return streaming !== null && streaming !== this.#connection
  }

  #tick(): void {
    const { safekeeper } = this.#options
    const { acceptor, host } = safekeeper
    if (acceptor === null) return
    if (this.#life !== host.life || this.#machine === null) this.#begin()
    const { control, lastLogTerm, flushLsn, commitLsn } = acceptor
    const nowMs = host.nowMs()
    const peers = this.#table.fresh(nowMs)
    const { configuration, term, backupLsn, remoteConsistentLsn } = control
    const proposerConnected = this.#proposerConnected()
    const own = { configuration, term, lastLogTerm, flushLsn, proposerConnected }
    this.#perform(this.#machine?.step({ kind: 'tick', nowMs, own, peers }) ?? [])
    const positions = { ...own, commitLsn, backupLsn, remoteConsistentLsn }
    const asked = peerToAsk(positions, peers)
    if (asked !== null) this.#askPositions(asked)
  }

  #begin(): void {
    const { safekeeper } = this.#options
    this.#life = safekeeper.host.life
    this.#connection = null
    const { tenantId, timelineId } = safekeeper.durableControl
    this.#machine = new PeerRecovery({
      ownId: safekeeper.id,
      tenantId,
      timelineId,
      proposerId: `${safekeeper.id}`.padStart(32, 'e'),
    })
  }

  /** A question to a peer and its answer; null when either cannot get through now. */
  #question<T>(
    id: number,
    ask: (peer: SimSafekeeper, reply: (said: T | null) => void) => void,
    answer: (said: T | null) => void,
  ) {
    const { network, safekeeper, safekeepers, random } = this.#options
    const peer = safekeepers.get(id)
    const { life } = safekeeper.host
    const blocked = network.blockedMs(safekeeper.id, id) + network.blockedMs(id, safekeeper.id)
    network.scheduler.after(network.delayMs() + blocked, () => {
      let open = true
      const reply = (said: T | null): void => {
        if (!open) return
        open = false
        network.scheduler.after(network.delayMs() + random.next(), () => {
          safekeeper.host.run(() => {
            if (safekeeper.host.life === life && safekeeper.acceptor !== null) answer(said)
          })
        })
      }
      if (peer === undefined || peer.acceptor === null) reply(null)
      else ask(peer, reply)
      // The peer may end while it brings its own WAL back.
      if (open) network.scheduler.after(QUESTION_TIMEOUT_MS, () => reply(null))
    })
  }

  #askPositions(id: number): void {
    const { safekeeper, coverage, mutation } = this.#options
    this.#question<PeerPositions>(
      id,
      ({ acceptor }, reply) => {
        if (acceptor === null) return
        const { term, peerHorizonLsn, remoteConsistentLsn } = acceptor.control
        const { lastLogTerm, commitLsn } = acceptor
        reply({ term, lastLogTerm, commitLsn, peerHorizonLsn, remoteConsistentLsn })
      },
      (peer) => {
        if (peer === null) return
        const before = safekeeper.commitLsn
        const term = mutation === 'peer-commit-without-term' ? 0 : peer.term
        safekeeper.dispatch({ kind: 'peer', peer: { ...peer, term } })
        if (safekeeper.commitLsn > before) coverage.count('commits told by peers')
      },
    )
  }

  #perform(effects: RecoveryEffect[]): void {
    for (const effect of effects) {
      if (effect.kind === 'end') this.#end(effect.caughtUp)
      else if (effect.attempt !== this.#machine?.attempt) continue
      else if (effect.kind === 'ask') this.#ask(effect.attempt, effect.donor)
      else if (effect.kind === 'deliver') this.#deliver(effect)
      else this.#read(effect)
    }
  }

  #ask(attempt: number, donor: number): void {
    this.#question<DonorState>(
      donor,
      ({ id, acceptor }, reply) => {
        if (acceptor === null) return
        const { configuration, term, history } = acceptor.control
        const { lastLogTerm, flushLsn } = acceptor
        const { generation } = configuration
        reply({ nodeId: id, generation, term, lastLogTerm, flushLsn, history })
      },
      (state) =>
        this.#options.safekeeper.occupy((leave) => {
          this.#leave()
          this.#leave = leave ?? (() => {})
          this.#step({ kind: 'donor', attempt, state: leave === null ? null : state })
          if (this.#machine?.attempt === null) this.#leave()
        }),
    )
  }

  #step(event: Parameters<PeerRecovery['step']>[0]): void {
    this.#perform(this.#machine?.step(event) ?? [])
  }

  #deliver({ attempt, message }: Extract<RecoveryEffect, { kind: 'deliver' }>): void {
    const { safekeeper } = this.#options
    this.#connection ??= safekeeper.acceptLocal(`recovery of ${safekeeper.host.name}`, {
      send: (answer: AcceptorMessage) => {
        const { commitLsn } = safekeeper
        this.#step({ kind: 'message', attempt, message: answer, commitLsn })
      },
      close: () => this.#step({ kind: 'broken', attempt, reason: 'the own acceptor closed it' }),
    })
    safekeeper.dispatch({ kind: 'message', connection: this.#connection, message })
  }

  /** Reads as the donor's WAL stream pinned to a term sends. */
  #read(effect: Extract<RecoveryEffect, { kind: 'read' }>): void {
    const { attempt, donor, term, beginLsn } = effect
    const endLsn = 'endLsn' in effect ? (effect.endLsn as Lsn) : null
    this.#options.coverage.count('recoveries from a peer begun')
    const reading = ++this.#reading
    const next = (lsn: Lsn): void => {
      if (endLsn !== null && lsn >= endLsn) return
      this.#question<Buffer>(
        donor,
        (peer, reply) => {
          const limit = Math.min(peer.flushLsn, lsn + READ_BYTES, endLsn ?? Infinity)
          peer.reach(limit, (isThere) => {
            const { acceptor } = peer
            if (!isThere || acceptor?.control.term !== term) reply(null)
            else if (limit <= lsn) reply(Buffer.alloc(0))
            else reply(Buffer.from(peer.readWal(lsn, limit)))
          })
        },
        (wal) => {
          if (this.#reading !== reading || this.#machine?.attempt !== attempt) return
          if (wal === null) {
            this.#step({ kind: 'broken', attempt, reason: 'the donor ended the stream' })
            return
          }
          if (wal.length > 0) this.#step({ kind: 'wal', attempt, beginLsn: lsn, wal })
          if (this.#machine?.attempt === attempt) next(lsn + wal.length)
        },
      )
    }
    next(beginLsn)
  }

  #end(caughtUp: boolean): void {
    const { safekeeper, coverage } = this.#options
    if (caughtUp) coverage.count('recoveries from a peer')
    this.#reading += 1
    this.#leave()
    const connection = this.#connection
    this.#connection = null
    if (connection !== null) safekeeper.closeLocal(connection)
  }
}
