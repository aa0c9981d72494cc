/** Runs the effects of a timeline's `PeerRecovery` on its acceptor and on the donor's ports. */
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { errorMessage } from '#libs/errors.ts'
import { parseLsn } from '#libs/lsn.ts'
import type { Logger } from '#libs/log.ts'
import { DonorReader } from '#libs/pgwire/donor-reader.ts'
import type { Member } from '#libs/protocol/wal-push.ts'
import type { SafekeeperTimeline } from '#libs/api/safekeeper.ts'
import type { ProposerConnection, Timeline } from '../timeline.ts'
import type { PeerAddresses } from './peer-addresses.ts'
import {
  type DonorState,
  PeerRecovery,
  type PeerHint,
  type RecoveryEffect,
} from './peer-recovery.ts'

const ASK_TIMEOUT_MS = 3_000
/** WAL that waits for the disk at which reading from the donor stops, and at which it goes on. */
const BACKLOG_HIGH_BYTES = 16 * 1024 * 1024
const BACKLOG_LOW_BYTES = 8 * 1024 * 1024

export interface TimelineRecoveryOptions {
  timeline: Timeline
  nodeId: number
  proposerId: string
  addresses: PeerAddresses
  log: Logger
  /** Told at the end of each attempt. */
  onEnd: (caughtUp: boolean) => void
}

export class TimelineRecovery {
  readonly #options: TimelineRecoveryOptions
  readonly #machine: PeerRecovery
  /** Of the attempt under way. */
  #donor: Member | null = null
  #connection: ProposerConnection | null = null
  /** Lets the timeline leave this disk again. */
  #leave: () => void = () => {}
  #reader: DonorReader | null = null
  #stopWaiting: (() => void) | null = null

  constructor(options: TimelineRecoveryOptions) {
    this.#options = options
    const { tenantId, timelineId } = options.timeline.control
    const { nodeId: ownId, proposerId } = options
    this.#machine = new PeerRecovery({ ownId, tenantId, timelineId, proposerId })
  }

  get running(): boolean {
    return this.#machine.attempt !== null
  }

  /** To be called every half second or so. */
  tick(nowMs: number, peers: readonly PeerHint[]): void {
    const { timeline } = this.#options
    const { configuration, term } = timeline.control
    const { lastLogTerm, flushLsn, computeConnected: proposerConnected } = timeline
    const own = { configuration, term, lastLogTerm, flushLsn, proposerConnected }
    this.#perform(this.#machine.step({ kind: 'tick', nowMs, own, peers }))
  }

  /** Ends what is under way without another word. */
  close(): void {
    this.#close()
  }

  #perform(effects: RecoveryEffect[]): void {
    for (const effect of effects) {
      if (effect.kind === 'end') this.#end(effect)
      else if (effect.attempt !== this.#machine.attempt) continue
      else if (effect.kind === 'deliver') this.#deliver(effect)
      else if (effect.kind === 'ask') void this.#ask(effect)
      else this.#read(effect)
    }
  }

  async #ask({ attempt, donor: id }: RecoveryEffect & { kind: 'ask' }): Promise<void> {
    const { timeline, addresses, log } = this.#options
    let state: DonorState | null = null
    try {
      const donor = await addresses.of(timeline.control.configuration, id)
      if (this.#machine.attempt !== attempt) return
      this.#donor = donor
      if (donor !== null) state = donorState(id, await askPeer(timeline, donor))
      const leave = await timeline.occupy()
      this.#leave()
      this.#leave = leave
    } catch (error) {
      log.info({ donor: id, err: errorMessage(error) }, 'a peer with a better log does not answer')
    }
    this.#perform(this.#machine.step({ kind: 'donor', attempt, state }))
    if (this.#machine.attempt === null) this.#leave()
  }

  #deliver({ attempt, message }: RecoveryEffect & { kind: 'deliver' }): void {
    const { timeline } = this.#options
    try {
      if (this.#connection === null) {
        this.#connection = this.#open(attempt)
        timeline.attach(this.#connection)
      }
      timeline.receive(this.#connection.id, message)
    } catch (error) {
      const reason = errorMessage(error)
      this.#perform(this.#machine.step({ kind: 'broken', attempt, reason }))
    }
  }

  /** Ids of proposers' connections are positive; see `Timeline.computeConnected`. */
  #open(attempt: number): ProposerConnection {
    const { timeline } = this.#options
    return {
      id: -attempt,
      send: (message) => {
        const { commitLsn } = timeline
        this.#perform(this.#machine.step({ kind: 'message', attempt, message, commitLsn }))
      },
      close: (reason) => this.#perform(this.#machine.step({ kind: 'broken', attempt, reason })),
    }
  }

  #read({ attempt, term, beginLsn, endLsn }: RecoveryEffect & { kind: 'read' }): void {
    const { timeline, log } = this.#options
    const { tenantId, timelineId } = timeline.control
    const donor = this.#donor
    if (donor === null || beginLsn >= endLsn) return
    log.info({ donor: donor.id, term, beginLsn, endLsn }, 'catching up from a peer')
    const reader = new DonorReader({
      donor,
      target: { tenantId, timelineId },
      term,
      beginLsn,
      endLsn,
      applicationName: 'safekeeper-recovery',
      onWal: (lsn, wal) => {
        this.#perform(this.#machine.step({ kind: 'wal', attempt, beginLsn: lsn, wal }))
        if (this.#reader !== reader) return false
        if (timeline.backlogBytes > BACKLOG_HIGH_BYTES) this.#pause(reader)
        return true
      },
      onEnd: (error) => {
        if (error === null) return
        const reason = errorMessage(error)
        this.#perform(this.#machine.step({ kind: 'broken', attempt, reason }))
      },
    })
    this.#reader = reader
  }

  #pause(reader: DonorReader): void {
    if (this.#stopWaiting !== null) return
    reader.pause()
    this.#stopWaiting = this.#options.timeline.onDurable(() => {
      if (this.#options.timeline.backlogBytes > BACKLOG_LOW_BYTES) return
      this.#stopWaiting?.()
      this.#stopWaiting = null
      reader.resume()
    })
  }

  #end({ reason, caughtUp, donor }: RecoveryEffect & { kind: 'end' }): void {
    const { log, timeline, onEnd } = this.#options
    log.info({ donor, reason, flushLsn: timeline.flushLsn }, 'recovery from a peer ended')
    this.#close()
    onEnd(caughtUp)
  }

  #close(): void {
    this.#stopWaiting?.()
    this.#stopWaiting = null
    this.#reader?.close()
    this.#reader = null
    const connection = this.#connection
    this.#connection = null
    if (connection !== null) this.#options.timeline.detach(connection)
    this.#leave()
  }
}

/** Asks a peer itself about a timeline. Throws when it does not answer. */
export function askPeer(timeline: Timeline, peer: Member): Promise<SafekeeperTimeline> {
  const { tenantId, timelineId } = timeline.control
  return callSafekeeper(`http://${peer.host}:${peer.httpPort}`, 'getTimeline', {
    params: { tenantId, timelineId },
    timeoutMs: ASK_TIMEOUT_MS,
  })
}

function donorState(nodeId: number, status: SafekeeperTimeline): DonorState {
  return {
    nodeId,
    generation: status.generation,
    term: status.term,
    lastLogTerm: status.lastLogTerm,
    flushLsn: parseLsn(status.flushLsn),
    history: status.termHistory.map(({ term, startLsn }) => ({
      term,
      startLsn: parseLsn(startLsn),
    })),
  }
}
