/**
 * Which operations a branch allows. Pure: records in, a refusal that names the way out, or nothing.
 */
import { ZenithError } from '#libs/errors.ts'
import type { BranchRecord, EndpointRecord, TimelineRecord } from '../records.ts'
import { isActive } from '../endpoint-state.ts'
import { checkActive } from '../timeline-state.ts'

/** All that a decision about one branch looks at. */
export interface Family {
  branch: BranchRecord
  timeline: TimelineRecord
  /** Of the whole tenant. */
  timelines: readonly TimelineRecord[]
  endpoints: readonly EndpointRecord[]
  /** It is the branch that its tenant began with, or what took its place. */
  isMain: boolean
}

/** What a timeline needs next; null when nothing is under way. */
export type LifecycleStep = 'create' | 'delete' | 'archive' | 'unarchive' | 'replace' | 'detach'

/** What is to be done for a timeline; null = it is as it should be. */
export function nextStep({ state, replaces, detaching }: TimelineRecord): LifecycleStep | null {
  switch (state) {
    case 'creating':
      // Others are completed by who makes branches.
      return replaces === undefined ? null : 'create'
    case 'deleting':
      return 'delete'
    case 'archiving':
      return 'archive'
    case 'unarchiving':
      return 'unarchive'
    case 'archived':
      return null
    case 'active':
      if (replaces !== undefined) return 'replace'
      return detaching === undefined ? null : 'detach'
  }
}

/** Those that branch from it and are there to stay. */
export function childrenOf(
  timelineId: string,
  timelines: readonly TimelineRecord[],
): TimelineRecord[] {
  return timelines.filter(
    ({ ancestorTimelineId, state }) => ancestorTimelineId === timelineId && state !== 'deleting',
  )
}

/** Those of the branch that run, or start or stop. */
export function activeEndpoints({ timeline, endpoints }: Family): EndpointRecord[] {
  return endpoints.filter(
    ({ timelineId, status }) => timelineId === timeline.timelineId && isActive(status),
  )
}

/** Throws `conflict`. Running computes are not looked at. */
export function checkDelete(family: Family, options: { evenMain: boolean }): void {
  const { branch, timeline, isMain } = family
  checkUnprotected(family, 'deleted')
  if (isMain && !options.evenMain) {
    throw new ZenithError('conflict', `Branch "${branch.name}" is the main branch of its tenant.`, {
      hint: `If you mean it: zenith branch delete ${branch.name} --even-main.`,
    })
  }
  const children = childrenOf(timeline.timelineId, family.timelines)
  if (children.length > 0) throw hasChildren(branch.name, children)
  checkMayGo(timeline)
  checkQuiet(family)
  if (timeline.follows?.lost !== true) checkNotFollowing(family)
  if (timeline.newSafekeepers !== undefined) {
    throw new ZenithError('conflict', `The safekeepers of "${branch.name}" are being changed.`, {
      hint: `Wait until that is done (zenith safekeeper list), or undo it: zenith safekeeper abort ${branch.name}.`,
    })
  }
}

/**
 * Throws `conflict` unless the state allows deletion. A branch that is still being made may go, too: it
 * may wait for a service for long.
 */
export function checkMayGo(timeline: TimelineRecord): void {
  const { state, ancestorTimelineId, importing } = timeline
  if (state === 'active' || state === 'archived') return
  const isNewBranch = ancestorTimelineId !== null && importing === undefined
  if (state === 'creating' && isNewBranch) return
  checkActive(timeline)
}

/** The refusal that names them. */
export function hasChildren(name: string, children: readonly TimelineRecord[]): ZenithError {
  const names = children.map(({ branch }) => `"${branch}"`).join(', ')
  const first = children[0]?.branch ?? ''
  return new ZenithError('conflict', `Branch "${name}" has children: ${names}.`, {
    hint: `Delete them first, or make them independent: zenith branch detach ${first}.`,
  })
}

/** Throws `conflict` with children that are not archived, and with running computes. */
export function checkArchive(family: Family): void {
  const { branch, timeline, timelines } = family
  const live = childrenOf(timeline.timelineId, timelines).filter(
    ({ state }) => state !== 'archived',
  )
  if (live.length > 0) {
    const names = live.map((child) => `"${child.branch}"`).join(', ')
    throw new ZenithError(
      'conflict',
      `Branch "${branch.name}" has children that are in use: ${names}.`,
      { hint: `Archive or detach them first: zenith branch archive ${live[0]?.branch}.` },
    )
  }
  checkStopped(family)
  if (timeline.state !== 'archiving') checkActive(timeline)
  checkQuiet(family)
  checkNotFollowing(family)
}

/** Throws `conflict` while the parent is archived. */
export function checkUnarchive({ branch, timeline, timelines }: Family): void {
  const parent = timelines.find(({ timelineId }) => timelineId === timeline.ancestorTimelineId)
  if (parent === undefined || parent.state === 'active') return
  throw new ZenithError(
    'conflict',
    `Branch "${branch.name}" needs its parent "${parent.branch}", which is archived.`,
    { hint: `Bring the parent back first: zenith branch unarchive ${parent.branch}.` },
  )
}

/** Throws `conflict`; a branch without parent is nothing to detach, and no error. */
export function checkDetach(family: Family): void {
  checkActive(family.timeline)
  checkQuiet(family)
}

/** Throws `conflict` for reset and restore. */
export function checkReplace(family: Family, what: 'reset' | 'restored'): void {
  checkUnprotected(family, what)
  checkActive(family.timeline)
  checkQuiet(family)
  checkNotFollowing(family)
  if (family.timeline.newSafekeepers !== undefined) {
    throw new ZenithError(
      'conflict',
      `The safekeepers of "${family.branch.name}" are being changed.`,
      { hint: 'Try again when that is done: zenith safekeeper list.' },
    )
  }
}

/** The name under which the old state is kept: `dev_old_20261121t213000`. */
export function oldName(name: string, now: Date, taken: ReadonlySet<string>): string {
  const stamp = now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '').toLowerCase()
  const tail = `_old_${stamp}`
  const base = `${name.slice(0, 63 - tail.length - 3)}${tail}`
  for (let count = 1; ; count++) {
    const candidate = count === 1 ? base : `${base}.${count}`
    if (!taken.has(candidate)) return candidate
  }
}

function checkUnprotected({ branch }: Family, what: string): void {
  if (branch.protected !== true) return
  throw new ZenithError('conflict', `Branch "${branch.name}" is protected: it is not ${what}.`, {
    hint: `Lift that first: zenith branch unprotect ${branch.name}.`,
  })
}

function checkStopped(family: Family): void {
  const [running] = activeEndpoints(family)
  if (running === undefined) return
  throw new ZenithError(
    'conflict',
    `Postgres "${running.name}" on branch "${family.branch.name}" is ${running.status}.`,
    { hint: `Stop it first: zenith pg stop ${running.name}.` },
  )
}

/** Its slot on the stock server goes first: that would keep WAL for it for ever. */
function checkNotFollowing({ branch, timeline }: Family): void {
  if (timeline.follows === undefined) return
  const { host, pgPort } = timeline.follows.server
  throw new ZenithError(
    'conflict',
    `Branch "${branch.name}" follows Postgres at ${host}:${pgPort}.`,
    {
      hint: `End that first: zenith import stop ${branch.name}.`,
    },
  )
}

/** No other change of the branch is under way. */
function checkQuiet({ branch, timeline, timelines }: Family): void {
  if (timeline.follows !== undefined && timeline.follows.lost !== true) {
    const { host, pgPort } = timeline.follows.server
    throw new ZenithError('conflict', `Branch "${branch.name}" follows ${host}:${pgPort}.`, {
      hint: `End that first: zenith import stop ${branch.name}.`,
    })
  }
  const replaced = timelines.some(({ replaces }) => replaces?.timelineId === timeline.timelineId)
  if (!replaced && timeline.replaces === undefined && timeline.detaching === undefined) return
  throw new ZenithError('conflict', `Branch "${branch.name}" is just being changed.`, {
    hint: 'That goes on by itself; try again in a moment.',
  })
}
