/** Whether a tenant may be deleted. Pure: records in, a refusal that names the way out, or nothing. */
import { ZenithError } from '#libs/errors.ts'
import { isActive } from '../endpoint-state.ts'
import type { BranchRecord, EndpointRecord, TenantRecord, TimelineRecord } from '../records.ts'
import { nextStep } from './rules.ts'

/** All of a tenant that a decision about it looks at. */
export interface TenantContents {
  tenantId: string
  timelines: readonly TimelineRecord[]
  branches: readonly BranchRecord[]
  endpoints: readonly EndpointRecord[]
}

export interface TenantDeleteOptions {
  /** Stop its computes first. */
  force?: boolean | undefined
  /** Protected branches go, too. */
  evenProtected?: boolean | undefined
}

/** Throws `conflict` for what has to be ended, or lifted, first. */
export function checkDeleteTenant(contents: TenantContents, options: TenantDeleteOptions): void {
  const { tenantId, timelines, branches } = contents
  const kept = branches.find((branch) => branch.protected === true)
  if (kept !== undefined && options.evenProtected !== true) {
    throw new ZenithError(
      'conflict',
      `Branch "${kept.name}" of tenant ${tenantId} is protected: the tenant is not deleted.`,
      {
        hint: `Lift that first (zenith branch unprotect ${kept.name} --tenant ${tenantId}), or add --even-protected.`,
      },
    )
  }
  for (const timeline of timelines) checkQuiet(timeline)
  const [running] = runningOf(contents)
  if (running === undefined || options.force === true) return
  throw new ZenithError(
    'conflict',
    `Postgres "${running.name}" on branch "${running.branch}" is ${running.status}.`,
    {
      hint: `Stop it first (zenith pg stop ${running.name} --tenant ${tenantId}), or add --force.`,
    },
  )
}

/** Throws `conflict` while its shards are on their way to others. */
export function checkNotSplit({ tenantId, split }: TenantRecord): void {
  if (split === undefined) return
  throw new ZenithError('conflict', `Tenant ${tenantId} is just being split.`, {
    hint: 'That goes on by itself; try again in a moment.',
  })
}

/** Those that run, or start or stop. */
export function runningOf({ endpoints }: TenantContents): EndpointRecord[] {
  return endpoints.filter(({ status }) => isActive(status))
}

/** Nothing is under way that would go on beside the deletion. */
function checkQuiet(timeline: TimelineRecord): void {
  const { branch, follows, importing, newSafekeepers, state } = timeline
  // Its slot on the stock server goes first: that would keep WAL for it for ever.
  const isFollowing = follows !== undefined && follows.lost !== true
  if (isFollowing || (importing !== undefined && state === 'creating')) {
    const what = isFollowing ? 'follows a stock server' : 'is being imported'
    throw new ZenithError('conflict', `Branch "${branch}" ${what}.`, {
      hint: `End that first: zenith import stop ${branch}.`,
    })
  }
  if (newSafekeepers !== undefined) {
    throw new ZenithError('conflict', `The safekeepers of "${branch}" are being changed.`, {
      hint: `Wait until that is done (zenith safekeeper list), or undo it: zenith safekeeper abort ${branch}.`,
    })
  }
  if (nextStep(timeline) === null || state === 'deleting') return
  throw new ZenithError('conflict', `Branch "${branch}" is just being changed.`, {
    hint: 'That goes on by itself; try again in a moment.',
  })
}
