/**
 * What a safekeeper decides about one timeline's WAL in object storage: full segments go there in
 * order, the tail of an idle timeline goes there, WAL that everybody has leaves this disk, and an
 * idle timeline leaves it altogether until somebody wakes it. Pure: `step(nowMs, view, event)` returns
 * effects; no clock, disk or network here.
 *
 * The plan is driven by levels, not by edges: with every event comes a view of all positions as they
 * are at this moment, among them those of the newest *durable* control file, and whatever is due then
 * is begun once. Effects are independent of one another and may run at the same time; each is
 * answered, once, by the event of its name. `store` alone has no answer: a later view shows it in
 * `durable`. What the plan wants stored is always the whole `OffloadRecord`.
 *
 * What may be deleted, and when: local WAL below every bound of `#removalBound`; a tail's object when
 * its entry says 'deleting' durably, and that entry was written with, or after, the one that replaced
 * it; everything local once the control file says 'evicted', which it says only after the tail's
 * object was compared with the disk. WAL may be appended again when the control file durably says
 * that the timeline is back.
 */
import { assert } from '#libs/errors.ts'
import { type Lsn, segmentNumber, segmentOffset } from '#libs/lsn.ts'
import type { TimelineId } from '#libs/ids.ts'
import type { PartialBackup } from '../control-state.ts'
import { Backoff } from './backoff.ts'
import {
  type SegmentEffect,
  SegmentUploads,
  type UploadOutcome,
  type VerifyOutcome,
} from './segment-uploads.ts'
import { TailBackups, type TailEffect } from './tail-backups.ts'
import { chooseUploader, type UploaderCandidate } from './uploader-choice.ts'

/** So that a removal which a hold has stopped is not asked for again at once. */
const REMOVAL_PAUSE_MS = 500

export interface OffloadSettings {
  /** Full segments in flight. */
  parallel: number
  /** After how long without a change the tail is copied. */
  tailAfterMs: number
  /** After how long without use the timeline leaves this disk; null: never. */
  evictAfterMs: number | null
  /** How long the uploader may take for one segment before the next member has its turn. */
  takeoverMs: number
}

/** The part of the control file that the plan owns. */
export interface OffloadRecord {
  backupLsn: Lsn
  partialBackups: readonly PartialBackup[]
  /** Set: there is no WAL on this disk, and the log ends there. */
  eviction: { flushLsn: Lsn } | null
}

export interface OffloadView {
  startLsn: Lsn
  commitLsn: Lsn
  flushLsn: Lsn
  /** End of what was received: beyond `flushLsn` lies what is not on disk, or no whole record yet. */
  writeLsn: Lsn
  lastLogTerm: number
  /** How often this process has cut the log. */
  cuts: number
  /** Oldest WAL on this disk. */
  localStartLsn: Lsn
  /** Ids of the members, of both lists when the configuration is joint. */
  members: readonly number[]
  /** From the newest durable control file. */
  durable: OffloadRecord & { commitLsn: Lsn; remoteConsistentLsn: Lsn }
  /** Lowest position that somebody holds on this disk; null for none. */
  heldLsn: Lsn | null
  /** Somebody writes, copies, or reads WAL that is on this disk. */
  inUse: boolean
}

export type OffloadEvent =
  /** Time has passed or positions have moved. */
  | { kind: 'tick' }
  | { kind: 'peers'; peers: readonly UploaderCandidate[] }
  | { kind: 'segment-uploaded'; segment: number; outcome: UploadOutcome }
  | { kind: 'segment-verified'; segment: number; outcome: VerifyOutcome }
  | { kind: 'tail-uploaded'; name: string; outcome: UploadOutcome }
  | { kind: 'tail-verified'; name: string; outcome: VerifyOutcome }
  | { kind: 'tail-deleted'; name: string; done: boolean }
  | { kind: 'wal-removed' }
  | { kind: 'all-wal-removed' }
  /** Somebody needs the timeline on this disk. */
  | { kind: 'wake' }
  /** `problem` says why it could not be; null when the end of the log is back on this disk. */
  | { kind: 'restored'; problem: string | null }

export type OffloadEffect =
  | SegmentEffect
  | TailEffect
  | { kind: 'store'; record: OffloadRecord }
  /** Delete local segments that end at or below `lsn`. */
  | { kind: 'remove-wal'; lsn: Lsn }
  | { kind: 'remove-all-wal' }
  /** Bring back the segment of `flushLsn`; `tail` is null when nothing of it is written. */
  | { kind: 'restore'; flushLsn: Lsn; tail: PartialBackup | null }
  /** Answer to all that woke it: it is on this disk, or could not be had. */
  | { kind: 'awake' }
  | { kind: 'asleep'; reason: string }

/**
 * `present` → `checking` (is the tail's object right?) → `leaving` (until stored) → `removing` →
 * `evicted` → `restoring` → `returning` (until stored) → `present`
 */
type Residence =
  | 'present'
  | 'checking'
  | 'leaving'
  | 'removing'
  | 'evicted'
  | 'restoring'
  | 'returning'

export interface OffloadPlanOptions {
  nodeId: number
  timelineId: TimelineId
  settings: OffloadSettings
  /** Numbers in [0, 1), for jitter. */
  random: () => number
  view: OffloadView
}

export class OffloadPlan {
  readonly #options: OffloadPlanOptions
  readonly #segments: SegmentUploads
  readonly #tails: TailBackups
  #view: OffloadView
  #peers: readonly UploaderCandidate[] = []
  #residence: Residence
  #eviction: { flushLsn: Lsn } | null
  #wakeWanted = false
  /** Tail whose object is being compared before the timeline leaves. */
  #checking: string | null = null
  /** Local WAL is being removed; the next removal is not before then. */
  #removing = false
  #removeAtMs = 0
  #stored: OffloadRecord
  #quietSinceMs: number | null = null
  #unusedSinceMs: number | null = null
  /** When the backup position moved last, or there was nothing to move it. */
  #progressAtMs: number | null = null
  #retryAtMs = 0
  readonly #backoff: Backoff
  #failures = 0

  constructor(options: OffloadPlanOptions) {
    this.#options = options
    const { view, settings, nodeId } = options
    const { durable } = view
    this.#backoff = new Backoff(options.random)
    this.#segments = new SegmentUploads(durable.backupLsn, settings.parallel, this.#backoff)
    this.#tails = new TailBackups(durable.partialBackups, nodeId, this.#backoff)
    this.#view = view
    this.#eviction = durable.eviction
    // A crash may have left files behind: remove them once more.
    this.#residence = durable.eviction === null ? 'present' : 'removing'
    this.#stored = this.#record
  }

  /** WAL may be appended and is on this disk. */
  get isPresent(): boolean {
    return this.#residence === 'present' || this.#residence === 'checking'
  }

  /** Why offloading has stopped for good; null while all is well. */
  get conflict(): string | null {
    return this.#segments.conflict
  }

  get #record(): OffloadRecord {
    return {
      backupLsn: this.#segments.backupLsn,
      partialBackups: this.#tails.entries,
      eviction: this.#eviction,
    }
  }

  step(nowMs: number, view: OffloadView, event: OffloadEvent): OffloadEffect[] {
    const effects: OffloadEffect[] = []
    this.#takeView(nowMs, view)
    this.#take(nowMs, event, effects)
    this.#planSegments(nowMs, effects)
    this.#planTail(nowMs, effects)
    this.#planRemoval(nowMs, effects)
    this.#planResidence(nowMs, effects)
    this.#store(effects)
    return effects
  }

  #take(nowMs: number, event: OffloadEvent, effects: OffloadEffect[]): void {
    switch (event.kind) {
      case 'tick':
        break
      case 'peers':
        this.#peers = event.peers
        break
      case 'segment-uploaded':
        this.#segments.uploaded(event.segment, event.outcome, nowMs)
        break
      case 'segment-verified':
        this.#segments.verified(event.segment, event.outcome, nowMs)
        break
      case 'tail-uploaded':
        this.#tails.tailUploaded(event.name, event.outcome, this.#view, nowMs)
        break
      case 'tail-verified':
        if (this.#checking === event.name) this.#checked(nowMs, event.name, event.outcome)
        else this.#tails.tailVerified(event.name, event.outcome, this.#view, nowMs)
        break
      case 'tail-deleted':
        this.#tails.tailDeleted(event.name, event.done, nowMs)
        break
      case 'wal-removed':
        this.#removing = false
        this.#removeAtMs = nowMs + REMOVAL_PAUSE_MS
        break
      case 'all-wal-removed':
        if (this.#residence === 'removing') this.#residence = 'evicted'
        this.#removing = false
        break
      case 'wake':
        this.#wakeWanted = true
        break
      case 'restored':
        this.#onRestored(nowMs, event.problem, effects)
    }
  }

  #takeView(nowMs: number, view: OffloadView): void {
    const before = this.#view
    assert(view.commitLsn <= view.flushLsn, 'commit is not beyond flush')
    const moved =
      before.flushLsn !== view.flushLsn ||
      before.commitLsn !== view.commitLsn ||
      before.lastLogTerm !== view.lastLogTerm ||
      before.cuts !== view.cuts
    if (moved || this.#quietSinceMs === null) this.#quietSinceMs = nowMs
    if (moved || view.inUse || this.#unusedSinceMs === null) this.#unusedSinceMs = nowMs
    this.#view = view
  }

  #planSegments(nowMs: number, effects: OffloadEffect[]): void {
    const { nodeId, timelineId, settings } = this.#options
    const { commitLsn, startLsn, localStartLsn, members } = this.#view
    const { backupLsn } = this.#segments
    const moved = backupLsn > this.#stored.backupLsn
    if (moved || this.#progressAtMs === null || !this.#segments.hasWork(commitLsn)) {
      this.#progressAtMs = nowMs
    }
    const misses = Math.floor((nowMs - this.#progressAtMs) / settings.takeoverMs)
    const own = { nodeId, commitLsn, backupLsn, localStartLsn }
    const peers = this.#peers
    const uploader = chooseUploader({ timelineId, own, members, peers, misses })
    effects.push(
      ...this.#segments.plan(nowMs, {
        commitLsn,
        startLsn,
        localStartLsn,
        isUploader: uploader === nodeId,
        peerBackupLsn: Math.max(0, ...peers.map((peer) => peer.backupLsn)),
      }),
    )
  }

  #planTail(nowMs: number, effects: OffloadEffect[]): void {
    if (this.#residence !== 'present' && this.#residence !== 'evicted') return
    const { settings } = this.#options
    const { durable, startLsn, flushLsn } = this.#view
    const wanted =
      this.#residence === 'present' &&
      flushLsn > startLsn &&
      this.#quietSinceMs !== null &&
      nowMs - this.#quietSinceMs >= settings.tailAfterMs &&
      this.conflict === null &&
      segmentNumber(durable.backupLsn) === segmentNumber(flushLsn)
    const { backupLsn, partialBackups } = durable
    effects.push(
      ...this.#tails.plan(nowMs, this.#view, { wanted, durable: partialBackups, backupLsn }),
    )
  }

  /** Below this everything is durable elsewhere and nobody needs it here (I19). */
  #removalBound(): Lsn {
    const { durable, flushLsn, heldLsn } = this.#view
    return Math.min(
      durable.remoteConsistentLsn,
      durable.backupLsn,
      durable.commitLsn,
      flushLsn,
      heldLsn ?? Number.POSITIVE_INFINITY,
    )
  }

  #planRemoval(nowMs: number, effects: OffloadEffect[]): void {
    if (this.#residence !== 'present' || this.conflict !== null) return
    if (this.#removing || nowMs < this.#removeAtMs) return
    const lsn = this.#removalBound()
    if (segmentNumber(lsn) <= segmentNumber(this.#view.localStartLsn)) return
    this.#removing = true
    effects.push({ kind: 'remove-wal', lsn })
  }

  #planResidence(nowMs: number, effects: OffloadEffect[]): void {
    const { durable } = this.#view
    if (this.#residence === 'checking' && (this.#wakeWanted || !this.#mayLeave(nowMs))) {
      this.#residence = 'present'
    }
    if (this.#residence === 'present' && this.#wakeWanted) {
      this.#wakeWanted = false
      this.#unusedSinceMs = nowMs
      effects.push({ kind: 'awake' })
    }
    const mayBegin = this.#checking === null && nowMs >= this.#retryAtMs
    if (this.#residence === 'present' && mayBegin && this.#mayLeave(nowMs)) this.#leave(effects)
    if (this.#residence === 'leaving' && durable.eviction !== null) {
      // Nothing is gone yet: somebody who wants it back waits for the control file only.
      if (this.#wakeWanted) this.#comeBack()
      else this.#residence = 'removing'
    }
    if (this.#residence === 'removing' && !this.#removing) {
      this.#removing = true
      effects.push({ kind: 'remove-all-wal' })
    }
    if (this.#residence === 'evicted' && this.#wakeWanted && nowMs >= this.#retryAtMs) {
      this.#restore(effects)
    }
    if (this.#residence === 'returning' && durable.eviction === null) {
      this.#residence = 'present'
      this.#wakeWanted = false
      this.#unusedSinceMs = nowMs
      effects.push({ kind: 'awake' })
    }
  }

  /** Nobody uses it, and all of it is in object storage. */
  #mayLeave(nowMs: number): boolean {
    const { evictAfterMs } = this.#options.settings
    const { startLsn, commitLsn, flushLsn, writeLsn, lastLogTerm } = this.#view
    const { durable, inUse, heldLsn } = this.#view
    // A compute that ended in the middle of a record leaves the begun one behind.
    if (flushLsn === startLsn || writeLsn !== flushLsn) return false
    if (evictAfterMs === null || inUse || heldLsn !== null || this.conflict !== null) return false
    if (this.#unusedSinceMs === null || nowMs - this.#unusedSinceMs < evictAfterMs) return false
    if (commitLsn !== flushLsn || durable.commitLsn !== flushLsn) return false
    if (durable.backupLsn < flushLsn - segmentOffset(flushLsn)) return false
    if (!this.#segments.idle || !this.#tails.idle || this.#removing) return false
    const tail = this.#tails.uploaded(flushLsn, lastLogTerm)
    return (
      segmentOffset(flushLsn) === 0 ||
      durable.partialBackups.some(({ name, state }) => name === tail?.name && state === 'uploaded')
    )
  }

  #leave(effects: OffloadEffect[]): void {
    const { flushLsn, lastLogTerm } = this.#view
    const tail = this.#tails.uploaded(flushLsn, lastLogTerm)
    if (tail === undefined || segmentOffset(flushLsn) === 0) {
      this.#intendToLeave()
      return
    }
    this.#residence = 'checking'
    this.#checking = tail.name
    effects.push({ kind: 'verify-tail', name: tail.name, flushLsn })
  }

  #checked(nowMs: number, name: string, outcome: VerifyOutcome): void {
    this.#checking = null
    // Given up meanwhile: somebody needs the timeline.
    if (this.#residence !== 'checking') return
    this.#residence = 'present'
    const { flushLsn, lastLogTerm } = this.#view
    const current = this.#tails.uploaded(flushLsn, lastLogTerm)?.name === name
    if (outcome === 'equal') {
      if (current && this.#mayLeave(nowMs)) this.#intendToLeave()
    } else if (outcome === 'unknown') this.#delay(nowMs)
    else this.#tails.distrust(name)
  }

  #intendToLeave(): void {
    const { flushLsn } = this.#view
    this.#residence = 'leaving'
    this.#eviction = { flushLsn }
  }

  #comeBack(): void {
    this.#residence = 'returning'
    this.#eviction = null
  }

  #restore(effects: OffloadEffect[]): void {
    const { flushLsn, lastLogTerm } = this.#view
    this.#residence = 'restoring'
    const tail = this.#tails.uploaded(flushLsn, lastLogTerm) ?? null
    effects.push({ kind: 'restore', flushLsn, tail })
  }

  #onRestored(nowMs: number, problem: string | null, effects: OffloadEffect[]): void {
    if (this.#residence !== 'restoring') return
    if (problem === null) {
      this.#failures = 0
      this.#comeBack()
      return
    }
    // Whoever waits is told and comes again; nothing is lost, and nothing goes on without it.
    this.#residence = 'evicted'
    this.#wakeWanted = false
    this.#delay(nowMs)
    effects.push({ kind: 'asleep', reason: problem })
  }

  #delay(nowMs: number): void {
    this.#failures += 1
    this.#retryAtMs = nowMs + this.#backoff.delayMs(this.#failures)
  }

  #store(effects: OffloadEffect[]): void {
    const record = this.#record
    const before = this.#stored
    assert(record.backupLsn >= before.backupLsn, 'the backup position never falls')
    assert(record.backupLsn <= this.#view.commitLsn, 'nothing uncommitted is called backed up')
    if (
      record.backupLsn === before.backupLsn &&
      record.partialBackups === before.partialBackups &&
      record.eviction === before.eviction
    ) {
      return
    }
    this.#stored = record
    effects.push({ kind: 'store', record })
  }
}
