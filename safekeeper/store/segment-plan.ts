/**
 * What happens to the WAL files of one timeline, and in which order. Pure: it knows positions and
 * names, no bytes and no disk; `wal-store.ts` performs its effects on real files, one at a time.
 *
 * Driving it (the shell and the simulation do the same):
 *
 * ```
 * plan.append(endLsn)            more bytes are in memory, up to there
 * plan.truncate(lsn)             drop everything from lsn on; over when `plan.truncating` is false
 * plan.remove(lsn)               drop whole segments below lsn
 * effect = plan.next()           the one thing to do now; null: nothing, or one is under way
 *   done without an error:       plan.done(), for a write plan.done(bytes written)
 *   no space (ENOSPC, EDQUOT):   plan.blocked(), later plan.retry(): nothing of it has happened
 *   any other error:             the process ends; the next one boots (boot-plan.ts)
 * ```
 *
 * A simulated disk needs per effect, for files of 16 MiB in one folder:
 *
 * - `take-spare`: a file of zeros that is already on disk appears under the name, in the folder's
 *   cached contents: durable with the next `sync-folder`, and until then there or not after a crash.
 *   `rename` and `unlink` likewise; those pending may survive in any combination.
 * - `write`, `zero`, `lead`, `rewrite`: bytes in place. Durable when done. In a crash before, any of
 *   the sectors touched have the new bytes, the others the old ones. With an EIO the same, and what is
 *   read back until a crash is the new bytes: the system calls the pages clean.
 * - `mark`: the two fields in the control file, over the newest state that was asked to be stored;
 *   like every control file the old or the new one after a crash.
 *
 * The end of a segment counts as durable only when its full name is. Zeros after a switch to the next
 * segment look the same whether they have come or were there from the start, so a boot tells by the
 * name whether the switch is whole.
 *
 * A crash may come before, within or after each. What the plan promises: bytes below `durableLsn` are
 * found again by any boot; behind the end that a boot finds there are zeros only before the next
 * write; no file of WAL lies behind a hole.
 */
import { assert } from '#libs/errors.ts'
import {
  type Lsn,
  segmentFileName,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
} from '#libs/lsn.ts'

/** Most bytes of one write: what an interrupted one can leave behind the end of the log. */
export const MAX_WRITE_BYTES = 4 * 1024 * 1024
/** Postgres' own timeline number: Zenith branches by ids of its own, so it never changes. */
const WAL_TIMELINE = 1
export const PARTIAL_SUFFIX = '.partial'

export type StoreEffect =
  /** A segment of zeros, full size and synced, gets this name. */
  | { kind: 'take-spare'; name: string }
  /** Headers before the start of the timeline, see wal-lead.ts; synced. */
  | { kind: 'lead'; name: string }
  /** Bytes [startLsn, endLsn) of the log; synced. */
  | { kind: 'write'; name: string; startLsn: Lsn; endLsn: Lsn }
  /** Zeros there; synced. Makes a file longer that ends before `endLsn`. */
  | { kind: 'zero'; name: string; startLsn: Lsn; endLsn: Lsn }
  /** What is read there is written there again; synced. */
  | { kind: 'rewrite'; name: string; startLsn: Lsn; endLsn: Lsn }
  | { kind: 'rename'; from: string; to: string }
  | { kind: 'unlink'; name: string }
  | { kind: 'sync-folder' }
  /** Stored in the control file, durably. */
  | { kind: 'mark'; dirtyTail: boolean; localStartLsn: Lsn }

/** The name of a segment: as Postgres names it, the unfinished one with `.partial`. */
export function segmentName(segment: number, partial: boolean): string {
  return segmentFileName(WAL_TIMELINE, segment) + (partial ? PARTIAL_SUFFIX : '')
}

export function segmentStart(segment: number): Lsn {
  return segment * WAL_SEGMENT_SIZE
}

/** End of the segment that holds `lsn`. */
export function segmentEnd(lsn: Lsn): Lsn {
  return (segmentNumber(lsn) + 1) * WAL_SEGMENT_SIZE
}

/**
 * The newest segment of a log that ends at `endLsn`. Its file is made by the first write into it, so
 * at a segment's start, and at the start of the timeline, it is the one before.
 */
export function newestSegmentOf(endLsn: Lsn, startLsn: Lsn): number {
  const inside = segmentOffset(endLsn) !== 0 && endLsn !== startLsn
  return inside ? segmentNumber(endLsn) : segmentNumber(endLsn) - 1
}

/** Segments on disk, both inclusive and everything between. */
export interface SegmentRange {
  readonly first: number
  readonly newest: number
}

export interface SegmentPlanOptions {
  /** Where the timeline begins. */
  startLsn: Lsn
  /** Where its WAL on this disk begins. */
  localStartLsn: Lsn
  /** End of the log; a boot has made sure that nothing lies behind it. */
  endLsn: Lsn
  /** Null while there are none. */
  segments: SegmentRange | null
}

export class SegmentPlan {
  readonly #startLsn: Lsn
  #localStart: Lsn
  #durable: Lsn
  #end: Lsn
  #first: number | null
  #newest: number | null
  /** Effects of a change that has begun, in order. */
  #steps: StoreEffect[] = []
  #current: StoreEffect | null = null
  #truncateTo: Lsn | null = null
  #dirtyTail = false
  #removeBelow: Lsn = 0
  /** No space for the effect at the head of the steps, and for a new segment. */
  #blocked = false
  #noSpare = false
  /** The segment that ends at `#durable` may not have its full name on disk. */
  #unnamed = false

  constructor(options: SegmentPlanOptions) {
    this.#startLsn = options.startLsn
    this.#localStart = options.localStartLsn
    this.#durable = options.endLsn
    this.#end = options.endLsn
    this.#first = options.segments?.first ?? null
    this.#newest = options.segments?.newest ?? null
  }

  /** Everything below is on disk. */
  get durableLsn(): Lsn {
    return this.#unnamed ? this.#durable - 1 : this.#durable
  }

  /** Where the WAL on this disk begins. */
  get localStartLsn(): Lsn {
    return this.#localStart
  }

  get segments(): SegmentRange | null {
    if (this.#first === null || this.#newest === null) return null
    return { first: this.#first, newest: this.#newest }
  }

  /** An effect is under way. */
  get busy(): boolean {
    return this.#current !== null
  }

  /** A cut was asked for and is not finished. */
  get truncating(): boolean {
    return this.#truncateTo !== null || this.#dirtyTail
  }

  /** Nothing is to be done: all bytes are on disk, all names are right. */
  get settled(): boolean {
    return !this.busy && !this.truncating && !this.removing && this.#durable === this.#end
  }

  /** There is no space for what comes next. */
  get isBlocked(): boolean {
    return this.#blocked || this.#noSpare
  }

  /** A removal was asked for and is not finished. */
  get removing(): boolean {
    const underWay = this.#steps.length > 0 || (this.busy && this.#current?.kind !== 'write')
    return underWay || this.#removalIsWanted()
  }

  /** How many segments bytes up to `endLsn` need that are not on disk yet. */
  missingSegments(endLsn: Lsn): number {
    const newest = this.#newest ?? newestSegmentOf(this.#durable, this.#startLsn)
    return Math.max(0, segmentNumber(endLsn - 1) - newest)
  }

  append(endLsn: Lsn): void {
    assert(endLsn >= this.#end, 'the log grows')
    assert(!this.truncating, 'nothing is written while the tail is being cut')
    this.#end = endLsn
  }

  /** Drops everything from `lsn` on. What is queued beyond is forgotten at once. */
  truncate(lsn: Lsn): void {
    assert(lsn >= this.#startLsn && lsn <= this.#end, 'the log is cut within its bounds')
    assert(lsn <= this.#durable, 'what stays after a cut is on disk before it')
    assert(!this.truncating, 'one cut at a time')
    this.#end = lsn
    if (this.#durable > lsn || this.#current !== null) this.#truncateTo = lsn
    // The segment that could not be had may not be needed any more.
    this.#noSpare = false
  }

  /** Drops whole segments below `lsn`, oldest first. The caller knows that nobody needs them. */
  remove(lsn: Lsn): void {
    assert(lsn <= this.#durable, 'only WAL that is on disk is removed')
    this.#removeBelow = Math.max(this.#removeBelow, lsn)
  }

  next(): StoreEffect | null {
    if (this.#current !== null || this.#blocked) return null
    if (this.#steps.length === 0) this.#plan()
    this.#current = this.#steps.shift() ?? this.#nextWrite()
    return this.#current
  }

  /** The effect is done. A write tells how many bytes it wrote; the rest is given again. */
  done(writtenBytes = 0): void {
    const effect = this.#current
    assert(effect !== null, 'an effect was under way')
    this.#current = null
    if (effect.kind === 'write') this.#written(effect.startLsn + writtenBytes)
    else if (effect.kind === 'mark') {
      this.#dirtyTail = effect.dirtyTail
      this.#localStart = effect.localStartLsn
    } else if (effect.kind === 'sync-folder') this.#unnamed = false
    else if (effect.kind === 'unlink') this.#noSpare = false
  }

  /**
   * There was no space; nothing of the effect has happened. It is given again after `retry`. Without a
   * segment to write to, cuts and removals still go on, and may make it needless.
   */
  blocked(): void {
    const effect = this.#current
    assert(effect !== null && effect.kind !== 'write', 'a write has its space')
    this.#current = null
    if (effect.kind === 'take-spare') {
      this.#noSpare = true
      this.#steps = this.#unnamed ? [{ kind: 'sync-folder' }] : []
      this.#forgetNewest()
    } else {
      this.#blocked = true
      this.#steps.unshift(effect)
    }
  }

  retry(): void {
    this.#blocked = false
    this.#noSpare = false
  }

  #plan(): void {
    if (this.#truncateTo !== null) {
      const lsn = this.#truncateTo
      this.#truncateTo = null
      if (lsn < this.#durable) this.#planTruncation(lsn)
    }
    if (this.#steps.length === 0) this.#planRemoval()
    const behind = this.#durable < this.#end && !this.#noSpare
    if (behind && this.#steps.length === 0) this.#planSegment()
  }

  /** The file for the next bytes, if it is not there. */
  #planSegment(): void {
    const segment = segmentNumber(this.#durable)
    if (this.#newest === segment) return
    const isFirst = this.#durable === this.#startLsn
    assert(isFirst || segmentOffset(this.#durable) === 0, 'a segment is begun at its start')
    assert(this.#newest === null || this.#newest === segment - 1, 'segments follow one another')
    const name = segmentName(segment, true)
    this.#steps.push({ kind: 'take-spare', name })
    if (segmentOffset(this.#durable) !== 0) this.#steps.push({ kind: 'lead', name })
    this.#steps.push({ kind: 'sync-folder' })
    this.#first ??= segment
    this.#newest = segment
  }

  /** The spare could not be had: the segment is not there. */
  #forgetNewest(): void {
    const newest = this.#newest as number
    if (newest === this.#first) {
      this.#first = null
      this.#newest = null
    } else this.#newest = newest - 1
  }

  #nextWrite(): StoreEffect | null {
    if (this.#durable === this.#end || this.#noSpare) return null
    assert(!this.#dirtyTail, 'nothing is written behind a tail that is not clean')
    const segment = segmentNumber(this.#durable)
    return {
      kind: 'write',
      name: segmentName(segment, true),
      startLsn: this.#durable,
      endLsn: Math.min(this.#end, segmentStart(segment + 1), this.#durable + MAX_WRITE_BYTES),
    }
  }

  #written(lsn: Lsn): void {
    this.#durable = lsn
    if (segmentOffset(lsn) !== 0) return
    const segment = segmentNumber(lsn) - 1
    this.#steps.push({
      kind: 'rename',
      from: segmentName(segment, true),
      to: segmentName(segment, false),
    })
    // With more to come, one sync makes this name durable and that of the next segment.
    this.#unnamed = true
    if (this.#durable === this.#end) this.#steps.push({ kind: 'sync-folder' })
  }

  /**
   * Later segments go first, the newest of them first, then the rest of the last one is zeroed: a
   * crash on the way leaves a shorter log, never a hole with WAL behind it. The mark around it makes
   * the next boot clear the whole tail, in case that zeros were in memory only.
   */
  #planTruncation(lsn: Lsn): void {
    const written = this.#durable
    const steps = this.#steps
    const last = newestSegmentOf(lsn, this.#startLsn)
    steps.push({ kind: 'mark', dirtyTail: true, localStartLsn: this.#localStart })
    // Asked for, and over only when the second mark is done.
    this.#dirtyTail = true
    let unlinked = false
    while (this.#newest !== null && this.#newest > last) {
      const partial = written < segmentStart(this.#newest + 1)
      steps.push({ kind: 'unlink', name: segmentName(this.#newest, partial) })
      this.#forgetNewest()
      unlinked = true
    }
    if (unlinked) steps.push({ kind: 'sync-folder' })
    const endOfLast = segmentStart(last + 1)
    if (lsn < endOfLast && last === segmentNumber(lsn)) {
      const finished = written >= endOfLast
      const name = segmentName(last, !finished)
      steps.push({ kind: 'zero', name, startLsn: lsn, endLsn: Math.min(written, endOfLast) })
      if (finished) {
        steps.push({ kind: 'rename', from: name, to: segmentName(last, true) })
        steps.push({ kind: 'sync-folder' })
      }
    }
    steps.push({ kind: 'mark', dirtyTail: false, localStartLsn: this.#localStart })
    this.#durable = lsn
  }

  #removalIsWanted(): boolean {
    return this.#first !== null && this.#first < segmentNumber(this.#removeBelow)
  }

  /** The mark comes first, so that a boot tells what was removed from what was lost. */
  #planRemoval(): void {
    if (this.#first === null || !this.#removalIsWanted()) return
    const end = segmentNumber(this.#removeBelow)
    const newest = this.#newest as number
    const kept = Math.min(end, newest + 1)
    this.#steps.push({ kind: 'mark', dirtyTail: false, localStartLsn: segmentStart(kept) })
    for (let segment = this.#first; segment < kept; segment += 1) {
      this.#steps.push({ kind: 'unlink', name: segmentName(segment, false) })
    }
    this.#steps.push({ kind: 'sync-folder' })
    this.#first = kept > newest ? null : kept
    if (this.#first === null) this.#newest = null
  }
}
