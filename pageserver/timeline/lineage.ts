/**
 * Where a timeline branches off, as its facts say; a detach changes them. After a restart the
 * ancestor may still have to take in WAL up to the branch point, and reads wait for that.
 */
import type { TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { ReadSource } from '../read/read-plan.ts'
import type { TimelineFacts } from '../remote/manifest.ts'
import type { Timeline } from './timeline.ts'

export interface Ancestor {
  timeline: Timeline
  lsn: Lsn
}

interface BranchOff {
  readonly ancestor: Ancestor
  /** The same, as reads use it. */
  readonly parent: { readonly source: ReadSource; readonly lsn: Lsn }
}

export interface LineageOptions {
  facts: () => TimelineFacts
  /** Gives another timeline of the tenant; throws when it is not open. */
  timelineOf: (timelineId: TimelineId) => Timeline
}

/** After a restart reads wait so long for the ancestor's WAL up to the branch point. */
const ANCESTOR_WAIT_MS = 60_000

export class Lineage {
  readonly #options: LineageOptions
  /** What `#branchOff` was made of. */
  #facts: TimelineFacts | null = null
  #branchOff: BranchOff | null = null
  #complete = false

  constructor(options: LineageOptions) {
    this.#options = options
  }

  /** Where it branches off; null when its whole history is its own. */
  get ancestor(): Ancestor | null {
    return this.#now()?.ancestor ?? null
  }

  /** What reads go on with where the timeline's own versions end. */
  get parent(): BranchOff['parent'] | null {
    return this.#now()?.parent ?? null
  }

  /** True when every ancestor has its history up to where we branch off. */
  get isComplete(): boolean {
    const { ancestor } = this
    if (this.#complete || ancestor === null) return true
    const { timeline, lsn } = ancestor
    this.#complete = timeline.lastRecordLsn >= lsn && timeline.lineage.isComplete
    return this.#complete
  }

  /** Resolves when it is; throws `timeout` when an ancestor's WAL does not come. */
  async complete(): Promise<void> {
    const { ancestor } = this
    if (ancestor === null) return
    const { timeline, lsn } = ancestor
    await timeline.waitForLsn(lsn, ANCESTOR_WAIT_MS)
    await timeline.lineage.complete()
  }

  /** Follows the facts, so that it changes in the same step as the layer map. */
  #now(): BranchOff | null {
    const facts = this.#options.facts()
    if (facts === this.#facts) return this.#branchOff
    const { ancestorTimelineId, ancestorLsn: lsn } = facts
    if (ancestorTimelineId === null || lsn === null) this.#branchOff = null
    else {
      const timeline = this.#options.timelineOf(ancestorTimelineId)
      this.#branchOff = { ancestor: { timeline, lsn }, parent: { source: timeline.source, lsn } }
    }
    this.#facts = facts
    return this.#branchOff
  }
}
