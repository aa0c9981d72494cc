/**
 * Changes of who keeps the timelines: begun and undone by requests, driven in the background, and
 * taken up again from the records after a restart. One run per timeline.
 */
import type { MembershipInfo } from '#libs/api/members.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn } from '#libs/lsn.ts'
import { recordKey, type TimelineRecord } from '../records.ts'
import type { Registry } from '../registry.ts'
import { checkActive } from '../timeline-state.ts'
import { safekeeperApi } from '../remote.ts'
import type { SyncContext } from '../safekeeper-sync.ts'
import { resumeEach } from '../unfinished.ts'
import { abortChange, beginChange, type Membership } from './membership.ts'
import { isUnfinished, membershipOf, withMembership } from './membership-record.ts'
import { MigrationRun } from './migration-run.ts'

function isKept({ safekeepers }: TimelineRecord): boolean {
  return safekeepers.length > 0
}

export class Migrations {
  readonly #registry: Registry
  readonly #log: Logger
  readonly #context: SyncContext
  readonly #runs = new Map<string, MigrationRun>()
  #stopped = false

  constructor(context: SyncContext) {
    this.#context = context
    this.#registry = context.registry
    this.#log = context.log
  }

  /** Every timeline with its members; those with a change under way tell how far it is. */
  async list(): Promise<MembershipInfo[]> {
    const timelines = await this.#registry.timelines()
    // One that follows a stock server has no members.
    return timelines.filter(isKept).map((timeline) => this.#info(timeline))
  }

  async get(tenantId: string, timelineId: string): Promise<MembershipInfo> {
    return this.#info(await this.#registry.timeline(tenantId, timelineId))
  }

  /**
   * Begins a change to other members; `rebuild` names members whose copy is lost. The change that is
   * asked for and under way already is joined. Throws `conflict` while another is, `not_found` for a
   * safekeeper that is not in service, `invalid_argument` for one that is to be emptied.
   */
  async begin(
    tenantId: string,
    timelineId: string,
    request: { safekeepers: number[]; rebuild?: number[] | undefined },
  ): Promise<MembershipInfo> {
    const timeline = await this.#registry.timeline(tenantId, timelineId)
    checkActive(timeline)
    if (!isKept(timeline)) {
      throw new ZenithError('precondition_failed', `No safekeeper keeps "${timeline.branch}".`, {
        hint: 'Its WAL comes from a stock server, until "zenith import stop" ends that.',
      })
    }
    await this.#checkNodes(timeline, request.safekeepers)
    const key = recordKey.timeline(tenantId, timelineId)
    const next = await this.#registry.change<TimelineRecord>(key, (current) => {
      const membership = membershipOf(current)
      if (isSameChange(membership, request.safekeepers)) return current
      return withMembership(current, beginChange(membership, request.safekeepers, request.rebuild))
    })
    await this.#drive(next)
    return this.#info(next)
  }

  /** Goes back to the members of before. Throws `conflict` when there is nothing to undo any more. */
  async abort(tenantId: string, timelineId: string): Promise<MembershipInfo> {
    const key = recordKey.timeline(tenantId, timelineId)
    const next = await this.#registry.change<TimelineRecord>(key, (current) => {
      const membership = membershipOf(current)
      if (membership.newMembers !== null) return withMembership(current, abortChange(membership))
      throw new ZenithError('conflict', `Branch "${current.branch}" has no change under way.`, {
        hint: 'zenith safekeeper list shows who keeps it.',
      })
    })
    await this.#drive(next)
    return this.#info(next)
  }

  /** Takes up what an earlier life left, and gives members that have no copy another one. */
  async resume(): Promise<void> {
    const active = (await this.#registry.timelines()).filter(({ state }) => state === 'active')
    const what = { log: this.#log, what: 'a change of safekeepers' }
    await resumeEach(active, what, async (timeline) => {
      const membership = membershipOf(timeline)
      if (isUnfinished(membership)) await this.#drive(timeline)
      else if (membership.pending.length > 0 && membership.generation > 1) {
        await this.#rebuildPending(timeline)
      }
    })
  }

  stop(): void {
    this.#stopped = true
    for (const run of this.#runs.values()) run.stop()
  }

  /** Lets the run of a timeline know its record, or starts one. */
  async #drive(timeline: TimelineRecord): Promise<void> {
    const { tenantId, timelineId } = timeline
    const membership = membershipOf(timeline)
    const running = this.#runs.get(timelineId)
    if (running) {
      running.feed({ kind: 'record', membership })
      return
    }
    if (this.#stopped || !isUnfinished(membership)) return
    const run = await MigrationRun.open(this.#context, timeline)
    if (this.#runs.has(timelineId) || this.#stopped) return
    this.#runs.set(timelineId, run)
    run
      .run()
      .catch((error: unknown) =>
        this.#log.error({ err: error, tenantId, timelineId }, 'a change of the members broke off'),
      )
      .finally(() => this.#runs.delete(timelineId))
  }

  /** Once they answer again: a safekeeper that is down cannot be given anything. */
  async #rebuildPending(timeline: TimelineRecord): Promise<void> {
    const { tenantId, timelineId } = timeline
    for (const id of timeline.pendingSafekeepers) {
      const node = await this.#registry.node('safekeeper', id)
      const answers = await safekeeperApi.memberState(node, timeline).then(
        () => true,
        (error: unknown) => error instanceof ZenithError && error.code === 'not_found',
      )
      if (!answers) return
    }
    const rebuild = timeline.pendingSafekeepers
    await this.begin(tenantId, timelineId, { safekeepers: timeline.safekeepers, rebuild })
  }

  async #checkNodes(timeline: TimelineRecord, wanted: readonly number[]): Promise<void> {
    const nodes = new Map((await this.#registry.nodes('safekeeper')).map((node) => [node.id, node]))
    for (const id of wanted) {
      const node = nodes.get(id)
      if (node === undefined) {
        throw new ZenithError('not_found', `There is no safekeeper ${id}.`, {
          hint: 'zenith safekeeper list shows those there are.',
        })
      }
      if (node.state === 'draining' && !timeline.safekeepers.includes(id)) {
        throw new ZenithError('invalid_argument', `Safekeeper ${id} is being emptied.`, {
          hint: 'Choose another one; zenith safekeeper list shows those there are.',
        })
      }
    }
  }

  #info(timeline: TimelineRecord): MembershipInfo {
    const { tenantId, timelineId, branch } = timeline
    const membership = membershipOf(timeline)
    const machine = this.#runs.get(timelineId)?.machine
    const { generation, members, newMembers, deletions } = membership
    return {
      tenantId,
      timelineId,
      branch,
      generation,
      safekeepers: [...members],
      newSafekeepers: newMembers === null ? null : [...newMembers],
      lacking: [...membership.pending],
      deletions: deletions.map(({ node }) => node),
      phase: machine?.phase ?? (isUnfinished(membership) ? 'waiting' : 'done'),
      nodes: (machine?.nodes() ?? []).map((node) => ({
        id: node.id,
        ready: node.ready,
        flushLsn: node.report === null ? null : formatLsn(node.report.flushLsn),
        copiedBytes: node.pulling?.copiedBytes ?? null,
        totalBytes: node.pulling?.totalBytes ?? null,
        problem: node.problem,
      })),
    }
  }
}

function isSameChange({ newMembers }: Membership, wanted: readonly number[]): boolean {
  return newMembers !== null && String(newMembers) === String([...wanted].sort((a, b) => a - b))
}
