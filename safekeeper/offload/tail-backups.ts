/**
 * Copies of an idle timeline's tail, the part behind the last full segment. Pure.
 *
 * Life of one: 'uploading' is stored in the control file before the object is made, so that no crash
 * leaves an object nobody knows of → the object is made → 'uploaded', and in the same write of the
 * control file its predecessor becomes 'deleting' → the predecessor's object goes → its entry goes.
 *
 * The log may be cut for a new leader while its tail travels: then the bytes read are a mixture, and
 * the copy is given up. `cuts`, the number of times the log was cut, tells. An entry that is
 * 'uploading' after a start of the process counts only if the log still ends where it says.
 */
import { type Lsn, segmentNumber, segmentOffset } from '#libs/lsn.ts'
import type { PartialBackup } from '../control-state.ts'
import type { Backoff } from './backoff.ts'
import type { UploadOutcome, VerifyOutcome } from './segment-uploads.ts'
import { tailName } from './wal-objects.ts'

/** More copies than this are never known at once: while objects cannot be deleted none is added. */
const MAX_ENTRIES = 8

export type TailEffect =
  /** Make the object `name` of the bytes from the start of the segment up to `flushLsn`. */
  | { kind: 'upload-tail'; name: string; flushLsn: Lsn }
  /** Compare it with them. */
  | { kind: 'verify-tail'; name: string; flushLsn: Lsn }
  | { kind: 'delete-tail'; name: string }

/** The log as it is now. */
export interface TailView {
  commitLsn: Lsn
  flushLsn: Lsn
  lastLogTerm: number
  /** How often this process has cut the log. */
  cuts: number
}

export class TailBackups {
  readonly #nodeId: number
  readonly #backoff: Backoff
  /** What the control file should say. */
  #entries: readonly PartialBackup[]
  /** `cuts` when the upload under way began; null for one that an earlier process began. */
  #cutsAtIntent: number | null = null
  #flying: string | null = null
  #next: 'upload' | 'verify' = 'upload'
  #failures = 0
  #retryAtMs = 0
  #deleting: string | null = null
  /** Names with a deletion that failed: it may still happen, so nothing is kept under them again. */
  readonly #doubtful = new Set<string>()

  constructor(entries: readonly PartialBackup[], nodeId: number, backoff: Backoff) {
    this.#entries = entries
    this.#nodeId = nodeId
    this.#backoff = backoff
  }

  get entries(): readonly PartialBackup[] {
    return this.#entries
  }

  /** Nothing is being made or taken away. */
  get idle(): boolean {
    return this.#flying === null && this.#deleting === null && this.#pending === undefined
  }

  /** The copy of a log that ends exactly so; undefined when there is none. */
  uploaded(flushLsn: Lsn, lastLogTerm: number): PartialBackup | undefined {
    return this.#entries.find(
      (entry) =>
        entry.state === 'uploaded' &&
        entry.flushLsn === flushLsn &&
        entry.lastLogTerm === lastLogTerm,
    )
  }

  get #pending(): PartialBackup | undefined {
    return this.#entries.find(({ state }) => state === 'uploading')
  }

  /**
   * What to begin now. `wanted`: the log has been quiet long enough for a copy of its tail.
   * `durable` are the entries of the newest durable control file, `backupLsn` its backup position.
   */
  plan(
    nowMs: number,
    view: TailView,
    options: { wanted: boolean; durable: readonly PartialBackup[]; backupLsn: Lsn },
  ): TailEffect[] {
    const isDurable = (entry: PartialBackup) =>
      options.durable.some(({ name, state }) => name === entry.name && state === entry.state)
    this.#dropUseless(view, options.backupLsn)
    if (options.wanted) this.#begin(view)
    const effects: TailEffect[] = []
    if (nowMs < this.#retryAtMs) return effects
    const pending = this.#pending
    if (pending && this.#flying === null && isDurable(pending)) {
      const { name, flushLsn } = pending
      this.#flying = name
      effects.push({ kind: `${this.#next}-tail`, name, flushLsn })
    }
    const doomed = this.#entries.find(({ state }) => state === 'deleting')
    if (doomed && this.#deleting === null && isDurable(doomed)) {
      this.#deleting = doomed.name
      effects.push({ kind: 'delete-tail', name: doomed.name })
    }
    return effects
  }

  /** Gives up copies that say nothing any more; one that is travelling is judged when it arrives. */
  #dropUseless(view: TailView, backupLsn: Lsn): void {
    const pending = this.#pending
    if (pending && this.#flying === null && !this.#isCurrent(pending, view)) {
      this.#change(pending, 'deleting')
    }
    for (const entry of this.#entries) {
      if (entry.state !== 'uploaded') continue
      const inFullSegment = segmentNumber(entry.flushLsn) < segmentNumber(backupLsn)
      if (inFullSegment || entry.flushLsn > view.flushLsn) this.#change(entry, 'deleting')
    }
  }

  #begin(view: TailView): void {
    const { flushLsn, lastLogTerm } = view
    if (segmentOffset(flushLsn) === 0 || this.#pending !== undefined) return
    if (this.#entries.length >= MAX_ENTRIES) return
    if (this.uploaded(flushLsn, lastLogTerm)) return
    const name = tailName({ ...view, nodeId: this.#nodeId })
    // An object of that name is on its way out: what is not there any more can be made anew.
    if (this.#doubtful.has(name) || this.#entries.some((entry) => entry.name === name)) return
    this.#entries = [...this.#entries, { name, flushLsn, lastLogTerm, state: 'uploading' }]
    this.#cutsAtIntent = view.cuts
    this.#next = 'upload'
    this.#failures = 0
  }

  #isCurrent(entry: PartialBackup, view: TailView): boolean {
    const same = entry.flushLsn === view.flushLsn && entry.lastLogTerm === view.lastLogTerm
    this.#cutsAtIntent ??= view.cuts
    return same && this.#cutsAtIntent === view.cuts
  }

  tailUploaded(name: string, outcome: UploadOutcome, view: TailView, nowMs: number): void {
    if (this.#flying !== name) return
    this.#flying = null
    if (outcome === 'stored') this.#arrived(view)
    else {
      this.#next = 'verify'
      if (outcome === 'unknown') this.#retry(nowMs)
    }
  }

  tailVerified(name: string, outcome: VerifyOutcome, view: TailView, nowMs: number): void {
    if (this.#flying !== name) return
    this.#flying = null
    if (outcome === 'equal') this.#arrived(view)
    else if (outcome === 'different') this.#change(this.#pending as PartialBackup, 'deleting')
    else {
      if (outcome === 'missing') this.#next = 'upload'
      this.#retry(nowMs)
    }
  }

  tailDeleted(name: string, done: boolean, nowMs: number): void {
    if (this.#deleting !== name) return
    this.#deleting = null
    if (done) this.#entries = this.#entries.filter((entry) => entry.name !== name)
    else {
      this.#doubtful.add(name)
      this.#retry(nowMs)
    }
  }

  /** The object of an uploaded tail is not what it should be: make another. */
  distrust(name: string): void {
    const entry = this.#entries.find((candidate) => candidate.name === name)
    if (entry?.state === 'uploaded') this.#change(entry, 'deleting')
  }

  #arrived(view: TailView): void {
    const pending = this.#pending as PartialBackup
    this.#failures = 0
    // More may have been written meanwhile; what was read must not have been cut.
    if (this.#cutsAtIntent !== view.cuts || pending.flushLsn > view.flushLsn) {
      this.#change(pending, 'deleting')
      return
    }
    this.#entries = this.#entries.map((entry) => {
      if (entry.name === pending.name) return { ...entry, state: 'uploaded' }
      return entry.state === 'uploaded' ? { ...entry, state: 'deleting' } : entry
    })
  }

  #retry(nowMs: number): void {
    this.#failures += 1
    this.#retryAtMs = nowMs + this.#backoff.delayMs(this.#failures)
  }

  #change(entry: PartialBackup, state: PartialBackup['state']): void {
    this.#entries = this.#entries.map((other) => (other === entry ? { ...entry, state } : other))
  }
}
