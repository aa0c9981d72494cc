/** Branches: names for timelines, and the making of new ones at an LSN of an old one. */
import type { BranchInfo } from '#libs/api/branch-info.ts'
import type { TimelineInfo } from '#libs/api/control.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { newTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { checkKept } from './history.ts'
import type { Imports } from './imports.ts'
import { withoutChange } from './membership/membership-record.ts'
import { checkName } from './names.ts'
import { chooseSafekeepers } from './placement.ts'
import { type BranchRecord, recordKey, type Replacement, type TimelineRecord } from './records.ts'
import { isRefusal } from './refusal.ts'
import type { Registry } from './registry.ts'
import { safekeeperApi } from './remote.ts'
import { TimeSearch } from './time-search.ts'
import { FIRST_BRANCH } from './tenants.ts'
import { lagBehind, positionsOf } from './timeline-positions.ts'
import type { Timelines } from './timelines.ts'
import { checkActive } from './timeline-state.ts'
import type { TipFinder } from './tip.ts'
import { resumeEach } from './unfinished.ts'

export interface BranchRequest {
  name: string
  from?: string | undefined
  lsn?: string | undefined
  /** Instead of an LSN: a moment. */
  at?: string | undefined
  dropSubscriptions?: boolean | undefined
}

export class Branches {
  readonly #registry: Registry
  readonly #timelines: Timelines
  readonly #tips: TipFinder
  readonly #times: TimeSearch
  readonly #imports: Imports
  readonly #log: Logger

  constructor(options: {
    registry: Registry
    timelines: Timelines
    tips: TipFinder
    imports: Imports
    log: Logger
  }) {
    this.#registry = options.registry
    this.#timelines = options.timelines
    this.#tips = options.tips
    this.#times = new TimeSearch(options)
    this.#imports = options.imports
    this.#log = options.log
  }

  /** All branches, each after its parent. */
  async list(tenantId: string): Promise<BranchInfo[]> {
    await this.#registry.tenant(tenantId)
    const timelines = await this.#registry.timelines(tenantId)
    const branches = await this.#registry.branches(tenantId)
    const byId = new Map(timelines.map((timeline) => [timeline.timelineId, timeline]))
    const names = new Map(branches.map(({ timelineId, name }) => [timelineId, name]))
    return branches.flatMap((branch) => {
      const timeline = byId.get(branch.timelineId)
      if (timeline === undefined) return []
      return [infoOf(branch, timeline, names.get(timeline.ancestorTimelineId ?? '') ?? null)]
    })
  }

  /**
   * Creates a branch. Throws `invalid_argument` for a bad name, `not_found` for an unknown parent,
   * `already_exists` for a name in use and `out_of_range` for an LSN that the parent does not have.
   */
  async create(tenantId: string, request: BranchRequest): Promise<BranchInfo> {
    const { name, from = FIRST_BRANCH } = request
    checkName('branch', name)
    const parent = await this.#registry.branch(tenantId, from)
    const parentTimeline = await this.#registry.timeline(tenantId, parent.timelineId)
    await this.#checkFree(tenantId, name)
    checkActive(parentTimeline)
    const startedAt = performance.now()
    const lsn = await this.#branchLsn(parentTimeline, request)
    const foundAt = performance.now()
    const branch = await this.#intend(parentTimeline, {
      name,
      parent: from,
      lsn,
      // A parent that has never been started still has those that it was to drop.
      dropSubscriptions: request.dropSubscriptions === true || parent.dropSubscriptions === true,
    })
    const timeline = await this.#finish(tenantId, branch.timelineId)
    const ms = (from: number, to: number) => Math.round((to - from) * 10) / 10
    this.#log.info(
      {
        tenantId,
        branch: name,
        timelineId: branch.timelineId,
        lsn: branch.branchLsn,
        findEndMs: ms(startedAt, foundAt),
        makeMs: ms(foundAt, performance.now()),
      },
      'branch created',
    )
    return infoOf(branch, timeline, from)
  }

  /** Completes what a crash left behind. */
  async resume(): Promise<void> {
    const unfinished = (await this.#registry.timelines()).filter(
      // What replaces another one goes on as a whole (lifecycle/lifecycle.ts).
      ({ state, ancestorTimelineId, replaces }) =>
        state === 'creating' && ancestorTimelineId !== null && replaces === undefined,
    )
    const what = { log: this.#log, what: 'the creation of a branch' }
    await resumeEach(unfinished, what, async ({ tenantId, timelineId }) => {
      if (this.#timelines.isRunning(timelineId)) return
      this.#log.info({ timelineId }, 'completing the creation of a branch')
      await this.#finish(tenantId, timelineId)
    })
  }

  /** Those of the parent, unless one of them is to be emptied. */
  async #safekeepersFor(parent: TimelineRecord): Promise<number[]> {
    const nodes = await this.#registry.nodes('safekeeper')
    const stays = (id: number) => nodes.some((node) => node.id === id && node.state === undefined)
    const some = parent.safekeepers.length > 0
    if (some && parent.safekeepers.every(stays)) return parent.safekeepers
    return chooseSafekeepers(parent.tenantId, nodes)
  }

  async #checkFree(tenantId: string, name: string): Promise<void> {
    const taken = await this.#registry.findBranch(tenantId, name)
    if (taken === null) return
    throw new ZenithError('already_exists', `There is a branch named "${name}" already.`, {
      hint: 'Choose another name; zenith branch shows the names in use.',
    })
  }

  async #branchLsn(parent: TimelineRecord, { lsn, at }: BranchRequest): Promise<Lsn> {
    if (lsn !== undefined && at !== undefined) {
      throw new ZenithError('invalid_argument', 'Both an LSN and a moment are given.', {
        hint: 'Give one of them.',
      })
    }
    if (at !== undefined) return await this.#times.find(parent, at)
    if (lsn === undefined) return await this.#tips.find(parent)
    const place = await this.#tips.place(parent, parseLsn(lsn))
    await checkKept(this.#registry, parent, place)
    return place
  }

  async #intend(
    parent: TimelineRecord,
    options: { name: string; parent: string; lsn: Lsn; dropSubscriptions: boolean },
  ): Promise<BranchRecord> {
    const { tenantId } = parent
    const timeline = await this.#childOf(parent, options.name, options.lsn)
    const { timelineId, startLsn: branchLsn, createdAt } = timeline
    const branch: BranchRecord = {
      name: options.name,
      timelineId,
      parent: options.parent,
      branchLsn,
      ...(options.dropSubscriptions ? { dropSubscriptions: true } : {}),
      createdAt,
    }
    const stored = await this.#registry.swap([
      { key: recordKey.branch(tenantId, branch.name), expectedVersion: 0, value: branch },
      { key: recordKey.timeline(tenantId, timelineId), expectedVersion: 0, value: timeline },
    ])
    if (!stored) await this.#checkFree(tenantId, branch.name)
    return branch
  }

  /**
   * Stores the intent to make a timeline that is to replace another one; it has no name of its own.
   */
  async prepare(
    parent: TimelineRecord,
    options: { branch: string; lsn: Lsn; replaces: Replacement },
  ): Promise<TimelineRecord> {
    const child = await this.#childOf(parent, options.branch, options.lsn)
    const timeline: TimelineRecord = { ...child, replaces: options.replaces }
    await this.#registry.update(
      recordKey.timeline(parent.tenantId, child.timelineId),
      () => timeline,
    )
    return timeline
  }

  async #childOf(parent: TimelineRecord, branch: string, lsn: Lsn): Promise<TimelineRecord> {
    const branchLsn = formatLsn(lsn)
    return {
      ...withoutChange(parent),
      safekeepers: await this.#safekeepersFor(parent),
      timelineId: newTimelineId(),
      branch,
      state: 'creating',
      ancestorTimelineId: parent.timelineId,
      ancestorLsn: branchLsn,
      startLsn: branchLsn,
      pendingSafekeepers: [],
      membershipGeneration: 1,
      createdAt: new Date().toISOString(),
    }
  }

  /**
   * Completes a branch. A refusal takes the name back; after any other failure the branch stays
   * `creating`, and is completed as soon as that can be.
   */
  async #finish(tenantId: string, timelineId: string): Promise<TimelineRecord> {
    try {
      await this.#checkParent(tenantId, timelineId)
      return await this.#timelines.complete(tenantId, timelineId)
    } catch (error) {
      if (isRefusal(error)) {
        const facts = { tenantId, timelineId, reason: errorMessage(error) }
        this.#log.warn(facts, 'a branch was refused, and is taken back')
        await this.#timelines.abandon(tenantId, timelineId)
      }
      throw error
    }
  }

  /** The parent may have got another intent since it was looked at; it looks for us after that. */
  async #checkParent(tenantId: string, timelineId: string): Promise<void> {
    const { ancestorTimelineId, branch } = await this.#registry.timeline(tenantId, timelineId)
    if (ancestorTimelineId === null) return
    const key = recordKey.timeline(tenantId, ancestorTimelineId)
    const parent = await this.#registry.read<TimelineRecord>(key)
    if (parent === null) {
      throw new ZenithError('conflict', `The parent of branch "${branch}" has been deleted.`)
    }
    checkActive(parent.value)
  }

  /** All timelines, or that of one branch, with their positions; what cannot be asked is null. */
  async timelines(tenantId: string, only?: string): Promise<TimelineInfo[]> {
    const positions = await positionsOf(this.#registry, tenantId)
    const timelines = (await this.#registry.timelines(tenantId)).filter(
      ({ branch }) => only === undefined || branch === only,
    )
    return Promise.all(
      timelines.map(async (timeline) => {
        const position = positions.get(timeline.timelineId)
        const commitLsn = await this.#commitLsn(timeline)
        return {
          timelineId: timeline.timelineId,
          branch: timeline.branch,
          ancestorTimelineId: timeline.ancestorTimelineId,
          ancestorLsn: timeline.ancestorLsn,
          startLsn: timeline.startLsn,
          lastRecordLsn: position?.lastRecordLsn ?? null,
          diskConsistentLsn: position?.diskConsistentLsn ?? null,
          remoteConsistentLsn: position?.remoteConsistentLsn ?? null,
          commitLsn: commitLsn === null ? null : formatLsn(commitLsn),
          lag: commitLsn === null || position === undefined ? null : lagBehind(commitLsn, position),
          safekeepers: timeline.safekeepers,
          membershipGeneration: timeline.membershipGeneration,
          following: await this.#imports.following(timeline),
        }
      }),
    )
  }

  async #commitLsn(timeline: TimelineRecord): Promise<Lsn | null> {
    const members = await this.#registry.members(timeline)
    const answers = await Promise.allSettled(
      members.map((node) => safekeeperApi.timeline(node, timeline)),
    )
    const commits = answers.flatMap((answer) =>
      answer.status === 'fulfilled' ? [parseLsn(answer.value.commitLsn)] : [],
    )
    return commits.length === 0 ? null : Math.max(...commits)
  }
}

export function infoOf(
  branch: BranchRecord,
  timeline: TimelineRecord,
  parent: string | null,
): BranchInfo {
  const { name, timelineId, createdAt } = branch
  const { state, ancestorLsn: branchLsn } = timeline
  const isProtected = branch.protected === true
  return { name, timelineId, state, parent, branchLsn, protected: isProtected, createdAt }
}
