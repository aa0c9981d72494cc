/**
 * The offloading of one simulated safekeeper: the real plan for full segments, tails and removal, its
 * effects on a simulated object store and on the segments of the simulated disk. Idle timelines are
 * not evicted here.
 */
import type { TimelineId } from '#libs/ids.ts'
import { type Lsn, segmentNumber } from '#libs/lsn.ts'
import { allMembers } from '#libs/protocol/quorum.ts'
import {
  type OffloadEffect,
  type OffloadEvent,
  OffloadPlan,
  type OffloadView,
} from '../../safekeeper/offload/offload-plan.ts'
import type { VerifyOutcome } from '../../safekeeper/offload/segment-uploads.ts'
import { segmentObject, tailObject } from '../../safekeeper/offload/wal-objects.ts'
import { segmentStart } from '../../safekeeper/store/segment-plan.ts'
import type { Coverage } from './coverage.ts'
import type { Mutation } from './mutations.ts'
import type { SimObjectStore } from './object-store.ts'
import { type Oracle, Violation } from './oracle.ts'
import type { Prng } from './prng.ts'
import type { SimSafekeeper } from './sim-safekeeper.ts'

const TICK_MS = 300

export interface SimOffloadOptions {
  safekeeper: SimSafekeeper
  safekeepers: ReadonlyMap<number, SimSafekeeper>
  store: SimObjectStore
  random: Prng
  oracle: Oracle
  coverage: Coverage
  mutation: Mutation | null
  /** Chance that what is heard of a peer is invented. */
  lieChance: number
}

export class SimOffload {
  readonly #options: SimOffloadOptions
  #plan: OffloadPlan | null = null
  #life = -1

  constructor(options: SimOffloadOptions) {
    this.#options = options
    const { host } = options.safekeeper
    const every = (): void => {
      host.scheduler.after(TICK_MS, () => {
        host.run(() => this.#tick())
        every()
      })
    }
    every()
  }

  #tick(): void {
    const { safekeeper } = this.#options
    if (safekeeper.acceptor === null) return
    if (this.#life !== safekeeper.host.life || this.#plan === null) this.#begin()
    this.#feed({ kind: 'peers', peers: this.#peers() })
  }

  #begin(): void {
    const { safekeeper, random } = this.#options
    this.#life = safekeeper.host.life
    this.#plan = new OffloadPlan({
      nodeId: safekeeper.id,
      timelineId: safekeeper.durableControl.timelineId as TimelineId,
      settings: { parallel: 2, tailAfterMs: 1500, evictAfterMs: null, takeoverMs: 1000 },
      random: () => random.next(),
      view: this.#view(),
    })
  }

  #view(): OffloadView {
    const { safekeeper, mutation } = this.#options
    const { acceptor } = safekeeper
    if (acceptor === null) throw new Error('a safekeeper that is down has no view')
    const durable = safekeeper.durableControl
    const { control, commitLsn, flushLsn, lastLogTerm } = acceptor
    const view: OffloadView = {
      startLsn: control.startLsn,
      commitLsn,
      flushLsn,
      lastLogTerm,
      cuts: safekeeper.cuts,
      localStartLsn: safekeeper.localStartLsn,
      members: allMembers(control.configuration).map((member) => member.id),
      durable,
      heldLsn: null,
      inUse: acceptor.streamingConnection !== null,
    }
    if (mutation === 'delete-by-horizon') {
      const bound = durable.peerHorizonLsn
      return { ...view, durable: { ...durable, backupLsn: bound, remoteConsistentLsn: bound } }
    }
    if (mutation !== 'remove-above-backup') return view
    return { ...view, durable: { ...durable, backupLsn: durable.commitLsn } }
  }

  #peers() {
    const { safekeeper, safekeepers, random, lieChance } = this.#options
    return [...safekeepers.values()]
      .filter((one) => one !== safekeeper && one.acceptor !== null && random.chance(0.8))
      .map((one) => ({
        nodeId: one.id,
        commitLsn: random.chance(lieChance) ? 2 ** 50 : one.commitLsn,
        backupLsn: random.chance(lieChance) ? 2 ** 50 : one.durableControl.backupLsn,
        localStartLsn: one.localStartLsn,
      }))
  }

  #feed(event: OffloadEvent): void {
    const { safekeeper } = this.#options
    if (this.#plan === null || this.#life !== safekeeper.host.life) return
    if (safekeeper.acceptor === null) return
    for (const effect of this.#plan.step(safekeeper.host.nowMs(), this.#view(), event)) {
      this.#perform(effect)
    }
  }

  /** An answer to this life of the process. */
  #answer(event: OffloadEvent): void {
    this.#options.safekeeper.host.run(() => this.#feed(event))
  }

  #perform(effect: OffloadEffect): void {
    const { safekeeper, store, coverage } = this.#options
    const { tenantId, timelineId } = safekeeper.durableControl
    const owner = { tenantId, timelineId }
    const life = this.#life
    const answer = (event: OffloadEvent): void => {
      if (this.#life === life) this.#answer(event)
    }
    switch (effect.kind) {
      case 'store':
        safekeeper.dispatch({ kind: 'offload', record: effect.record })
        break
      case 'upload-segment': {
        const { segment } = effect
        const bytes = this.#segment(segment)
        this.#audit(segment, bytes)
        coverage.count('segments uploaded')
        store.put(segmentObject(owner, segment), bytes, (outcome) =>
          answer({ kind: 'segment-uploaded', segment, outcome }),
        )
        break
      }
      case 'verify-segment': {
        const { segment } = effect
        coverage.count('segments verified')
        store.get(segmentObject(owner, segment), (found) => {
          const outcome = this.#compare(found, () => this.#segment(segment))
          answer({ kind: 'segment-verified', segment, outcome })
        })
        break
      }
      case 'upload-tail': {
        const { name, flushLsn } = effect
        coverage.count('tails uploaded')
        store.put(tailObject(owner, name), this.#tail(flushLsn), (outcome) =>
          answer({ kind: 'tail-uploaded', name, outcome }),
        )
        break
      }
      case 'verify-tail': {
        const { name, flushLsn } = effect
        store.get(tailObject(owner, name), (found) => {
          const outcome = this.#compare(found, () => this.#tail(flushLsn))
          answer({ kind: 'tail-verified', name, outcome })
        })
        break
      }
      case 'delete-tail': {
        const { name } = effect
        coverage.count('tails deleted')
        store.delete(tailObject(owner, name), (done) =>
          answer({ kind: 'tail-deleted', name, done }),
        )
        break
      }
      case 'remove-wal':
        this.#remove(effect.lsn, () => answer({ kind: 'wal-removed' }))
        break
      case 'remove-all-wal':
      case 'restore':
      case 'awake':
      case 'asleep':
        throw new Violation('I19', `an idle timeline leaves (${effect.kind}) though none may here`)
    }
  }

  /** The part of the segment that is in the timeline. */
  #segment(segment: number): Buffer {
    const from = Math.max(segmentStart(segment), this.#options.safekeeper.durableControl.startLsn)
    return this.#read(from, segmentStart(segment + 1))
  }

  #tail(flushLsn: Lsn): Buffer {
    const { safekeeper } = this.#options
    const from = Math.max(segmentStart(segmentNumber(flushLsn)), safekeeper.durableControl.startLsn)
    return this.#read(Math.min(from, flushLsn), flushLsn)
  }

  #read(from: Lsn, to: Lsn): Buffer {
    return Buffer.from(this.#options.safekeeper.readWal(from, to))
  }

  #compare(found: Buffer | null | 'unknown', mine: () => Buffer): VerifyOutcome {
    if (found === 'unknown' || this.#options.safekeeper.acceptor === null) return 'unknown'
    if (found === null) return 'missing'
    return found.equals(mine()) ? 'equal' : 'different'
  }

  /** I20: what goes up as a full segment is committed, byte for byte. */
  #audit(segment: number, bytes: Buffer): void {
    const { safekeeper, oracle } = this.#options
    oracle.read(
      `backup of ${safekeeper.host.name}`,
      segmentStart(segment + 1) - bytes.length,
      bytes,
    )
  }

  /** I19 and I21: what leaves the disk is in object storage, as it was committed. */
  #remove(lsn: Lsn, done: () => void): void {
    const { safekeeper, store, oracle, coverage } = this.#options
    const { tenantId, timelineId } = safekeeper.durableControl
    const first = segmentNumber(safekeeper.localStartLsn)
    for (let segment = first; segment < segmentNumber(lsn); segment += 1) {
      const found = store.peek(segmentObject({ tenantId, timelineId }, segment))
      if (found === null) {
        throw new Violation(
          'I19',
          `${safekeeper.host.name} removes WAL that is stored nowhere else`,
        )
      }
      oracle.read('the backup', segmentStart(segment + 1) - found.length, found)
    }
    coverage.count('removals')
    safekeeper.removeWal(lsn, done)
  }
}
