/**
 * The life of branches behind durable intents: an operation checks, stores what is to happen in the
 * timeline's record, and then goes through idempotent steps until the record says that it is done.
 * A crash anywhere is answered by going through the steps again; the resumer does that.
 *
 * Two operations that must exclude each other each store their intent first and look for the
 * other's afterwards, so that at least one of them sees the other and takes its own back.
 */
import type { BranchInfo } from '#libs/api/branch-info.ts'
import type { BranchDetails, ReplacedBranch } from '#libs/api/lifecycle.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { type Branches, infoOf } from '../branches.ts'
import type { Endpoints } from '../endpoints.ts'
import { checkName } from '../names.ts'
import { type BranchRecord, recordKey, type Replacement, type TimelineRecord } from '../records.ts'
import { isRefusal } from '../refusal.ts'
import type { Registry } from '../registry.ts'
import { TimeSearch } from '../time-search.ts'
import type { Timelines } from '../timelines.ts'
import { checkActive } from '../timeline-state.ts'
import type { TipFinder } from '../tip.ts'
import { resumeEach } from '../unfinished.ts'
import { archiveStep, unarchiveStep } from './archiving.ts'
import { detailsOf } from './branch-details.ts'
import { deleteStep } from './deleting.ts'
import { detachStep } from './detaching.ts'
import { renameBranch } from './naming.ts'
import { replaceStep } from './replacing.ts'
import {
  activeEndpoints,
  checkArchive,
  checkDelete,
  checkDetach,
  checkMayGo,
  checkReplace,
  checkUnarchive,
  type Family,
  nextStep,
  oldName,
} from './rules.ts'

export interface LifecycleContext {
  registry: Registry
  timelines: Timelines
  branches: Branches
  endpoints: Endpoints
  tips: TipFinder
  log: Logger
}

export interface ReplaceRequest {
  /** The name that the old state keeps; default: the old name with the time behind it. */
  keepAs?: string | undefined
  /** Delete the old state. */
  discard?: boolean | undefined
  dropSubscriptions?: boolean | undefined
}

export class Lifecycle {
  readonly #context: LifecycleContext
  readonly #registry: Registry
  readonly #times: TimeSearch
  readonly #running = new Map<string, Promise<void>>()

  constructor(context: LifecycleContext) {
    this.#context = context
    this.#registry = context.registry
    this.#times = new TimeSearch(context)
  }

  /**
   * Deletes a branch with its endpoints for good. With `force` running computes are stopped first.
   * When it answers, the branch is gone for everybody; what a service that is down still has goes
   * later. Throws `conflict`; see rules.ts.
   */
  async delete(
    tenantId: string,
    name: string,
    options: { force?: boolean | undefined; evenMain?: boolean | undefined },
  ): Promise<BranchInfo> {
    const family = await this.#family(tenantId, name)
    checkDelete(family, { evenMain: options.evenMain === true })
    await this.#stopEndpoints(family, options.force === true)
    await this.#intend(family, (current) => {
      checkMayGo(current)
      return {
        ...current,
        state: 'deleting',
        ...(current.state === 'archived' ? { wasArchived: true as const } : {}),
      }
    })
    await this.#advance(family.timeline, { waitForServices: false })
    return { ...infoOf(family.branch, family.timeline, null), state: 'deleting' }
  }

  /** Puts a branch away. Throws `conflict` for one with children or computes in use. */
  async archive(tenantId: string, name: string): Promise<BranchInfo> {
    const family = await this.#family(tenantId, name)
    if (family.timeline.state !== 'archived') {
      checkArchive(family)
      await this.#intend(family, (current) => {
        if (current.state !== 'archiving') checkActive(current)
        return { ...current, state: 'archiving' }
      })
      await this.#advance(family.timeline)
    }
    return this.#info(tenantId, name)
  }

  /** Brings an archived branch back. Throws `conflict` while its parent is archived. */
  async unarchive(tenantId: string, name: string): Promise<BranchInfo> {
    const family = await this.#family(tenantId, name)
    if (family.timeline.state !== 'active') {
      checkUnarchive(family)
      await this.#intend(family, (current) => {
        if (current.state === 'creating' || current.state === 'deleting') checkActive(current)
        return { ...current, state: 'unarchiving' }
      })
      await this.#advance(family.timeline)
    }
    return this.#info(tenantId, name)
  }

  /** Makes a branch independent of its parent; computes run on. One that is so is no error. */
  async detach(tenantId: string, name: string): Promise<BranchInfo> {
    const family = await this.#family(tenantId, name)
    const { ancestorTimelineId, ancestorLsn, detaching } = family.timeline
    if (ancestorTimelineId !== null && ancestorLsn !== null) {
      if (detaching === undefined) checkDetach(family)
      await this.#intend(family, (current) => {
        checkActive(current)
        return { ...current, detaching: { ancestorTimelineId, ancestorLsn } }
      })
      await this.#advance(family.timeline)
    }
    return this.#info(tenantId, name)
  }

  /** Makes a branch show what its parent shows now. */
  async reset(tenantId: string, name: string, request: ReplaceRequest): Promise<ReplacedBranch> {
    const family = await this.#family(tenantId, name)
    checkReplace(family, 'reset')
    const { ancestorTimelineId } = family.timeline
    if (ancestorTimelineId === null) {
      throw new ZenithError('conflict', `Branch "${name}" has no parent to be reset to.`, {
        hint: `To go back in its own history: zenith branch restore ${name} <lsn or time>.`,
      })
    }
    const parent = await this.#registry.timeline(tenantId, ancestorTimelineId)
    checkActive(parent)
    const lsn = await this.#context.tips.find(parent)
    return this.#replace(family, { parent, lsn, detach: false, request })
  }

  /** Puts a branch back to an earlier state of its own. */
  async restore(
    tenantId: string,
    name: string,
    request: ReplaceRequest & { lsn?: string | undefined; at?: string | undefined },
  ): Promise<ReplacedBranch> {
    const family = await this.#family(tenantId, name)
    checkReplace(family, 'restored')
    const { timeline } = family
    const lsn = await this.#placeOf(timeline, request)
    return this.#replace(family, { parent: timeline, lsn, detach: true, request })
  }

  /** Gives a branch another name; computes run on. */
  async rename(tenantId: string, name: string, to: string): Promise<BranchInfo> {
    checkName('branch', to)
    await renameBranch(this.#registry, tenantId, name, to)
    return this.#info(tenantId, to)
  }

  /** Protects a branch, or ends that. */
  async protect(tenantId: string, name: string, on: boolean): Promise<BranchInfo> {
    await this.#registry.branch(tenantId, name)
    await this.#registry.change<BranchRecord>(recordKey.branch(tenantId, name), (current) => {
      const { protected: _, ...rest } = current
      return on ? { ...rest, protected: true } : rest
    })
    return this.#info(tenantId, name)
  }

  /** One branch with its sizes. */
  async details(tenantId: string, name: string): Promise<BranchDetails> {
    await this.#registry.branch(tenantId, name)
    const [found] = await detailsOf(this.#context, tenantId, name)
    if (found) return found
    throw new ZenithError('not_found', `There is no branch named "${name}".`)
  }

  /** All branches of a tenant with their sizes. */
  listDetails(tenantId: string): Promise<BranchDetails[]> {
    return detailsOf(this.#context, tenantId)
  }

  /** Goes on with whatever is not finished. */
  async resume(): Promise<void> {
    const unfinished = (await this.#registry.timelines()).filter((one) => nextStep(one) !== null)
    const what = { log: this.#context.log, what: 'a change of a branch' }
    await resumeEach(unfinished, what, async (timeline) => {
      if (this.#running.has(timeline.timelineId)) return
      // All of a tenant that is being deleted goes together (tenant-deletion.ts).
      const tenant = await this.#registry.findTenant(timeline.tenantId)
      if (tenant?.value.state !== 'deleting') await this.#advance(timeline)
    })
  }

  async #replace(
    family: Family,
    how: { parent: TimelineRecord; lsn: Lsn; detach: boolean; request: ReplaceRequest },
  ): Promise<ReplacedBranch> {
    const { branch, timeline } = family
    const { parent, lsn, request } = how
    const { tenantId } = timeline
    if (request.discard === true && request.keepAs !== undefined) {
      throw new ZenithError('invalid_argument', 'The old state is either kept or discarded.')
    }
    if (request.keepAs !== undefined) checkName('branch', request.keepAs)
    // Whoever keeps a state that has children must keep their parent.
    if (request.discard === true) checkDelete({ ...family, isMain: false }, { evenMain: true })
    const names = new Set((await this.#registry.branches(tenantId)).map((one) => one.name))
    if (request.keepAs !== undefined && names.has(request.keepAs)) {
      throw new ZenithError('already_exists', `There is a branch "${request.keepAs}" already.`)
    }
    const replaces: Replacement = {
      timelineId: timeline.timelineId,
      keepAs: request.discard ? null : (request.keepAs ?? oldName(branch.name, new Date(), names)),
      detach: how.detach,
    }
    const running = activeEndpoints(family).map((endpoint) => endpoint.name)
    const next = await this.#context.branches.prepare(parent, {
      branch: branch.name,
      lsn,
      replaces,
    })
    if (request.dropSubscriptions === true) {
      const key = recordKey.branch(tenantId, branch.name)
      await this.#registry.change<BranchRecord>(key, (current) => ({
        ...current,
        dropSubscriptions: true,
      }))
    }
    try {
      await this.#advance(next)
    } catch (error) {
      // A new state that was refused goes again, before anything has changed for anybody.
      const record = await this.#registry.read<TimelineRecord>(keyOf(next))
      if (record?.value.state === 'deleting') await this.#advance(next, { waitForServices: false })
      throw error
    }
    if (replaces.keepAs === null) await this.#advance(timeline, { waitForServices: false })
    return {
      branch: await this.#info(tenantId, branch.name),
      lsn: formatLsn(lsn),
      kept: replaces.keepAs,
      stopped: running,
    }
  }

  async #placeOf(
    timeline: TimelineRecord,
    { lsn, at }: { lsn?: string | undefined; at?: string | undefined },
  ): Promise<Lsn> {
    if ((lsn === undefined) === (at === undefined)) {
      throw new ZenithError('invalid_argument', 'Name either an LSN or a moment.')
    }
    if (at !== undefined) return this.#times.find(timeline, at)
    return this.#context.tips.place(timeline, parseLsn(lsn as string))
  }

  async #family(tenantId: string, name: string): Promise<Family> {
    const branch = await this.#registry.branch(tenantId, name)
    const tenant = await this.#registry.tenant(tenantId)
    return {
      branch,
      timeline: await this.#registry.timeline(tenantId, branch.timelineId),
      timelines: await this.#registry.timelines(tenantId),
      // Checked with each compute, so that one that has gone does not count.
      endpoints: await this.#context.endpoints.records(tenantId),
      isMain: tenant.mainTimelineId === branch.timelineId,
    }
  }

  async #stopEndpoints(family: Family, force: boolean): Promise<void> {
    for (const { name, status, tenantId } of activeEndpoints(family)) {
      if (!force) {
        throw new ZenithError(
          'conflict',
          `Postgres "${name}" on branch "${family.branch.name}" is ${status}.`,
          { hint: `Stop it first (zenith pg stop ${name}), or add --force.` },
        )
      }
      await this.#context.endpoints.stop(tenantId, name)
    }
  }

  async #intend(
    { timeline }: Family,
    decide: (current: TimelineRecord) => TimelineRecord,
  ): Promise<void> {
    await this.#registry.change<TimelineRecord>(keyOf(timeline), decide)
  }

  /**
   * Goes through the steps until nothing is under way. Whoever asks while somebody else is at it
   * waits for the same run. Without `waitForServices` a service that does not answer is no error: the
   * intent holds, and the resumer goes on.
   */
  async #advance(
    timeline: TimelineRecord,
    options: { waitForServices: boolean } = { waitForServices: true },
  ): Promise<void> {
    const { timelineId } = timeline
    const running =
      this.#running.get(timelineId) ??
      this.#steps(timeline).finally(() => this.#running.delete(timelineId))
    this.#running.set(timelineId, running)
    try {
      await running
    } catch (error) {
      if (options.waitForServices || isRefusal(error)) throw error
      this.#context.log.warn({ timelineId, reason: errorMessage(error) }, 'it goes on later')
    }
  }

  async #steps({ tenantId, timelineId }: TimelineRecord): Promise<void> {
    for (;;) {
      const key = recordKey.timeline(tenantId, timelineId)
      const timeline = (await this.#registry.read<TimelineRecord>(key))?.value
      const step = timeline === undefined ? null : nextStep(timeline)
      if (timeline === undefined || step === null) return
      const { log } = this.#context
      log.info({ timelineId, branch: timeline.branch, step }, 'a step in the life of a branch')
      switch (step) {
        case 'create':
          await this.#create(timeline)
          break
        case 'delete':
          await deleteStep(this.#context, timeline)
          break
        case 'archive':
          await archiveStep(this.#context, timeline)
          break
        case 'unarchive':
          await unarchiveStep(this.#context, timeline)
          break
        case 'replace':
          await replaceStep(this.#context, timeline)
          break
        case 'detach':
          await detachStep(this.#context, timeline)
          break
      }
    }
  }

  /** Makes what is to replace another timeline; when that is refused, it goes again. */
  async #create({ tenantId, timelineId }: TimelineRecord): Promise<void> {
    const { timelines, log } = this.#context
    try {
      await timelines.complete(tenantId, timelineId)
    } catch (error) {
      if (isRefusal(error)) {
        const facts = { tenantId, timelineId, reason: errorMessage(error) }
        log.warn(facts, 'a new state of a branch was refused, and is taken back')
        await timelines.abandon(tenantId, timelineId)
      }
      throw error
    }
  }

  async #info(tenantId: string, name: string): Promise<BranchInfo> {
    const found = (await this.#context.branches.list(tenantId)).find((one) => one.name === name)
    if (found) return found
    throw new ZenithError('not_found', `There is no branch named "${name}".`)
  }
}

function keyOf({ tenantId, timelineId }: TimelineRecord): string {
  return recordKey.timeline(tenantId, timelineId)
}
