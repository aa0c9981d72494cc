/**
 * Full segments on their way to object storage. Pure: says what to upload or to verify next, and how
 * far everything below is known to be there.
 *
 * Several segments travel at once, but `backupLsn` moves over them in order only. Nothing is assumed:
 * a segment counts when the store said so plainly, or when the object was compared with the segment
 * on disk byte for byte. That is so after an error whose outcome is unknown, when the name was taken
 * already, and for what another safekeeper says that it has uploaded.
 */
import { assert } from '#libs/errors.ts'
import { formatLsn, type Lsn, segmentNumber, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { Backoff } from './backoff.ts'

/** `exists`: the name was taken; `unknown`: the object may be there or not. */
export type UploadOutcome = 'stored' | 'exists' | 'unknown'
/** What a comparison with the bytes on disk gave; `unknown`: it could not be made. */
export type VerifyOutcome = 'equal' | 'missing' | 'different' | 'unknown'

export type SegmentEffect =
  | { kind: 'upload-segment'; segment: number }
  | { kind: 'verify-segment'; segment: number }

type Action = 'upload' | 'verify'

type Slot =
  | { phase: 'flying' }
  | { phase: 'done' }
  | { phase: 'waiting'; next: Action; untilMs: number }

export interface UploadConditions {
  commitLsn: Lsn
  /** Oldest WAL on this disk. */
  localStartLsn: Lsn
  startLsn: Lsn
  /** This safekeeper is the one that uploads. */
  isUploader: boolean
  /** Highest position that a peer calls backed up. */
  peerBackupLsn: Lsn
}

export class SegmentUploads {
  readonly #parallel: number
  readonly #backoff: Backoff
  readonly #slots = new Map<number, Slot>()
  readonly #failures = new Map<number, number>()
  #backup: Lsn
  #conflict: string | null = null

  constructor(backupLsn: Lsn, parallel: number, backoff: Backoff) {
    this.#backup = backupLsn
    this.#parallel = parallel
    this.#backoff = backoff
  }

  /** Everything from the start of the timeline up to here is in object storage. */
  get backupLsn(): Lsn {
    return this.#backup
  }

  /** Why nothing goes on: the store holds other bytes than this disk. */
  get conflict(): string | null {
    return this.#conflict
  }

  get idle(): boolean {
    return ![...this.#slots.values()].some((slot) => slot.phase === 'flying')
  }

  /** Whether a full committed segment waits to be backed up. */
  hasWork(commitLsn: Lsn): boolean {
    return this.#end(segmentNumber(this.#backup)) <= commitLsn
  }

  /** What to begin now. */
  plan(nowMs: number, conditions: UploadConditions): SegmentEffect[] {
    const effects: SegmentEffect[] = []
    if (this.#conflict !== null) return effects
    const first = segmentNumber(this.#backup)
    for (let segment = first; segment < first + this.#parallel; segment += 1) {
      if (this.#end(segment) > conditions.commitLsn) break
      const action = this.#action(segment, nowMs, conditions)
      if (action === null) continue
      this.#slots.set(segment, { phase: 'flying' })
      effects.push({ kind: `${action}-segment`, segment })
    }
    return effects
  }

  #action(segment: number, nowMs: number, conditions: UploadConditions): Action | null {
    const { isUploader, peerBackupLsn, startLsn } = conditions
    // What is not whole on this disk can be neither sent nor compared.
    const from = Math.max(segment * WAL_SEGMENT_SIZE, startLsn)
    if (from < conditions.localStartLsn) return null
    const slot = this.#slots.get(segment)
    const fromPeer = peerBackupLsn >= this.#end(segment) ? 'verify' : null
    if (slot === undefined) return isUploader ? 'upload' : fromPeer
    if (slot.phase !== 'waiting' || slot.untilMs > nowMs) return null
    if (slot.next === 'verify') return 'verify'
    return isUploader ? 'upload' : fromPeer
  }

  uploaded(segment: number, outcome: UploadOutcome, nowMs: number): void {
    if (this.#slots.get(segment)?.phase !== 'flying') return
    if (outcome === 'stored') this.#finish(segment)
    else if (outcome === 'exists') {
      this.#slots.set(segment, { phase: 'waiting', next: 'verify', untilMs: nowMs })
    } else this.#retry(segment, 'verify', nowMs)
  }

  verified(segment: number, outcome: VerifyOutcome, nowMs: number): void {
    if (this.#slots.get(segment)?.phase !== 'flying') return
    if (outcome === 'equal') this.#finish(segment)
    else if (outcome === 'unknown') this.#retry(segment, 'verify', nowMs)
    else if (outcome === 'missing') this.#retry(segment, 'upload', nowMs)
    else {
      this.#slots.delete(segment)
      this.#conflict =
        `the object of the segment at ${formatLsn(segment * WAL_SEGMENT_SIZE)} holds other bytes ` +
        'than the committed WAL here'
    }
  }

  #finish(segment: number): void {
    this.#slots.set(segment, { phase: 'done' })
    this.#failures.delete(segment)
    for (let next = segmentNumber(this.#backup); ; next += 1) {
      if (this.#slots.get(next)?.phase !== 'done') return
      this.#slots.delete(next)
      assert(this.#end(next) > this.#backup, 'the backup position rises')
      this.#backup = this.#end(next)
    }
  }

  #retry(segment: number, next: Action, nowMs: number): void {
    const failures = (this.#failures.get(segment) ?? 0) + 1
    this.#failures.set(segment, failures)
    const untilMs = nowMs + this.#backoff.delayMs(failures)
    this.#slots.set(segment, { phase: 'waiting', next, untilMs })
  }

  #end(segment: number): Lsn {
    return (segment + 1) * WAL_SEGMENT_SIZE
  }
}
