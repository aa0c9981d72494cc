/**
 * The offloading of one simulated safekeeper: the real plan for full segments, tails, removal and
 * eviction, its effects on a simulated object store and on the segments of the simulated disk.
 */
import type { TimelineId } from '#libs/ids.ts'
import { errorMessage } from '#libs/errors.ts'
import { type Lsn, segmentNumber, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { allMembers } from '#libs/protocol/quorum.ts'
import { lastLogTerm } from '#libs/protocol/term-history.ts'
import type { PartialBackup } from '../../safekeeper/control-state.ts'
import {
  type OffloadEffect,
  type OffloadEvent,
  OffloadPlan,
  type OffloadView,
} from '../../safekeeper/offload/offload-plan.ts'
import { tailCheck } from '../../safekeeper/offload/segment-check.ts'
import type { VerifyOutcome } from '../../safekeeper/offload/segment-uploads.ts'
import { segmentObject, tailObject } from '../../safekeeper/offload/wal-objects.ts'
import { segmentStart } from '../../safekeeper/store/segment-plan.ts'
import type { Coverage } from './coverage.ts'
import type { Mutation } from './mutations.ts'
import type { SimObjectStore } from './object-store.ts'
import { type Oracle, Violation } from './oracle.ts'
import type { Prng } from './prng.ts'
import type { Residence } from './residence.ts'
import type { SimSafekeeper } from './sim-safekeeper.ts'

const TICK_MS = 300
const WAKE_TIMEOUT_MS = 4000
/** Records are shorter: behind so much of a tail no byte belongs to one that began in another segment. */
const MAX_RECORD_BYTES = 45_000
const SECTOR_BYTES = 512
/** Room for the check of a segment, of which only the part that the timeline has is ever touched. */
const SEGMENT = Buffer.alloc(WAL_SEGMENT_SIZE)

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
  /** After how long without use the timeline leaves the disk; null: never. */
  evictAfterMs: number | null
}

type Waiter = (isThere: boolean) => void

export class SimOffload implements Residence {
  readonly #options: SimOffloadOptions
  #plan: OffloadPlan | null = null
  #life = -1
  #waiters: Waiter[] = []
  /** The tail's object that rotted after the timeline had left the disk: what nobody could prevent. */
  #rottenSince: string | null = null
  /** The plan wants to leave, and no file has gone yet. */
  #leaving = false

  constructor(options: SimOffloadOptions) {
    this.#options = options
    const { host } = options.safekeeper
    if (options.evictAfterMs !== null) options.safekeeper.residence = this
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

  get evicted(): boolean {
    const { safekeeper } = this.#options
    if (this.#plan !== null && this.#life === safekeeper.host.life) return !this.#plan.isPresent
    return safekeeper.durableControl.eviction !== null
  }

  wake(then: Waiter): void {
    const { safekeeper, coverage } = this.#options
    const { host } = safekeeper
    host.run(() => {
      if (safekeeper.acceptor === null) return
      if (this.#life !== host.life || this.#plan === null) this.#begin()
      this.#waiters.push(then)
      this.#feed({ kind: 'wake' })
      if (!this.#waiters.includes(then)) return
      coverage.count('waits for an evicted timeline')
      host.after(WAKE_TIMEOUT_MS, () => {
        if (!this.#waiters.includes(then)) return
        this.#waiters = this.#waiters.filter((waiter) => waiter !== then)
        then(false)
      })
    })
  }

  /** Answers all that woke it, never within a step. */
  #tellWaiters(isThere: boolean): void {
    const { host } = this.#options.safekeeper
    for (const waiter of this.#waiters.splice(0)) host.after(0, () => waiter(isThere))
  }

  archived(from: Lsn, to: Lsn): Buffer | null {
    const { safekeeper, store } = this.#options
    const { startLsn, eviction } = safekeeper.durableControl
    if (eviction === null || to > eviction.flushLsn) return null
    const pieces: Buffer[] = []
    for (let lsn = from; lsn < to; ) {
      const segment = segmentNumber(lsn)
      const end = Math.min(to, segmentStart(segment + 1))
      const isFull = segment < segmentNumber(eviction.flushLsn)
      const name = isFull ? segmentObject(this.#owner, segment) : this.#evictedTail()
      const found = name === this.#rottenSince ? store.peekOriginal(name) : store.peek(name)
      if (found === null) return null
      const base = Math.max(segmentStart(segment), startLsn)
      pieces.push(found.subarray(lsn - base, end - base))
      lsn = end
    }
    return Buffer.concat(pieces)
  }

  /** The object that has the end of an evicted log, as the control file on the medium names it. */
  #evictedTail(): string {
    const { eviction, partialBackups, history } = this.#options.safekeeper.durableControl
    const flushLsn = eviction?.flushLsn ?? 0
    const term = lastLogTerm(history, flushLsn)
    const tail = partialBackups.find(
      (entry) =>
        entry.state === 'uploaded' && entry.flushLsn === flushLsn && entry.lastLogTerm === term,
    )
    return tail === undefined ? '' : tailObject(this.#owner, tail.name)
  }

  /**
   * The object of this timeline's tail rots: a part of it has other bytes, or its end is gone. False
   * when there is none that may: none between its comparison and the moment that it counts.
   */
  rot(random: Prng): boolean {
    const { safekeeper, store, coverage } = this.#options
    if (safekeeper.absent || store.rotten !== null) return false
    const { partialBackups, eviction, startLsn } = safekeeper.durableControl
    if (this.#leaving && eviction === null) return false
    const tail = partialBackups.findLast(({ state }) => state === 'uploaded')
    if (tail === undefined) return false
    const name = eviction === null ? tailObject(this.#owner, tail.name) : this.#evictedTail()
    const bytes = store.peek(name)
    const begins = segmentOffset(tail.flushLsn - (bytes?.length ?? 0)) !== 0
    const from = begins && tail.flushLsn > startLsn ? 0 : MAX_RECORD_BYTES
    if (bytes === null || bytes.length < from + 2 * SECTOR_BYTES) return false
    if (eviction !== null) this.#rottenSince = name
    coverage.count(eviction === null ? 'rotten tails' : 'rotten tails of evicted timelines')
    if (random.chance(0.3)) {
      store.rot(name, bytes.subarray(0, bytes.length - random.int(1, SECTOR_BYTES)))
      return true
    }
    const rotten = Buffer.from(bytes)
    const at = random.int(from, bytes.length - SECTOR_BYTES)
    for (let offset = at; offset < at + SECTOR_BYTES; offset += 1) {
      rotten[offset] = ~(bytes[offset] as number) & 255
    }
    store.rot(name, rotten)
    return true
  }

  get #owner() {
    const { tenantId, timelineId } = this.#options.safekeeper.durableControl
    return { tenantId, timelineId }
  }

  #begin(): void {
    const { safekeeper, random, evictAfterMs } = this.#options
    this.#life = safekeeper.host.life
    this.#waiters = []
    this.#leaving = false
    this.#plan = new OffloadPlan({
      nodeId: safekeeper.id,
      timelineId: safekeeper.durableControl.timelineId as TimelineId,
      settings: {
        parallel: 2,
        tailAfterMs: evictAfterMs === null ? 1500 : 400,
        evictAfterMs,
        takeoverMs: 1000,
      },
      random: () => random.next(),
      view: this.#view(),
    })
  }

  #view(): OffloadView {
    const { safekeeper, mutation } = this.#options
    const { acceptor } = safekeeper
    if (acceptor === null) throw new Error('a safekeeper that is down has no view')
    const durable = safekeeper.durableControl
    const { control, commitLsn, flushLsn, writeLsn, lastLogTerm } = acceptor
    const view: OffloadView = {
      startLsn: control.startLsn,
      commitLsn,
      flushLsn,
      writeLsn,
      lastLogTerm,
      cuts: safekeeper.cuts,
      localStartLsn: safekeeper.diskStartLsn,
      members: allMembers(control.configuration).map((member) => member.id),
      durable,
      heldLsn: null,
      inUse: safekeeper.inUse,
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
    const owner = this.#owner
    const life = this.#life
    const answer = (event: OffloadEvent): void => {
      if (this.#life === life) this.#answer(event)
    }
    switch (effect.kind) {
      case 'store':
        this.#leaving ||=
          effect.record.eviction !== null && safekeeper.durableControl.eviction === null
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
        if (this.#trusts(name)) {
          safekeeper.host.after(1, () => answer({ kind: 'tail-verified', name, outcome: 'equal' }))
          break
        }
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
        coverage.count(this.#leaving ? 'timelines evicted' : 'removals repeated after a crash')
        this.#leaving = false
        safekeeper.leaveDisk(() => answer({ kind: 'all-wal-removed' }))
        break
      case 'restore':
        this.#restore(effect.flushLsn, effect.tail, answer)
        break
      case 'awake':
        this.#tellWaiters(true)
        break
      case 'asleep':
        this.#tellWaiters(false)
    }
  }

  /** Whether a tail that is in object storage already is taken for right without a comparison. */
  #trusts(name: string): boolean {
    const { safekeeper, mutation } = this.#options
    if (mutation !== 'evict-without-compare') return false
    const { partialBackups } = safekeeper.durableControl
    return partialBackups.some((entry) => entry.name === name && entry.state === 'uploaded')
  }

  #restore(flushLsn: Lsn, tail: PartialBackup | null, answer: (event: OffloadEvent) => void): void {
    const { safekeeper, store, coverage } = this.#options
    const life = this.#life
    const restored = (problem: string | null): void => {
      coverage.count(problem === null ? 'timelines restored' : 'restores that failed')
      if (problem === null) this.#rottenSince = null
      answer({ kind: 'restored', problem })
    }
    if (segmentOffset(flushLsn) === 0) {
      safekeeper.returnToDisk(null, restored)
      return
    }
    if (tail === null) throw new Violation('I8', 'no object has the end of an evicted log')
    store.get(tailObject(this.#owner, tail.name), (found) => {
      safekeeper.host.run(() => {
        if (this.#life !== life || safekeeper.host.life !== life) return
        if (found === null) throw new Violation('I8', 'the object of an evicted tail is gone')
        if (found === 'unknown') {
          restored('object storage does not answer')
          return
        }
        const damage = this.#damage(found, flushLsn)
        if (damage === null) safekeeper.returnToDisk(found, restored)
        else {
          coverage.count('restores refused')
          restored(damage)
        }
      })
    })
  }

  /** What production finds wrong with the object of a tail. */
  #damage(tail: Buffer, flushLsn: Lsn): string | null {
    const { safekeeper, mutation } = this.#options
    if (mutation === 'restore-without-check') return null
    const { startLsn } = safekeeper.durableControl
    const lead = Math.max(0, startLsn - segmentStart(segmentNumber(flushLsn)))
    tail.copy(SEGMENT, lead)
    try {
      const steps = tailCheck(SEGMENT.subarray(0, lead + tail.length), flushLsn, startLsn)
      while (steps.next().done !== true);
      return null
    } catch (error) {
      return errorMessage(error)
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
    const first = segmentNumber(safekeeper.localStartLsn)
    for (let segment = first; segment < segmentNumber(lsn); segment += 1) {
      const found = store.peek(segmentObject(this.#owner, segment))
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
