/** `zenith timeline list`: where each timeline stands. */
import { callControl } from '#libs/api/control-client.ts'
import type { FollowInfo } from '#libs/api/transfer.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

export async function timelineList(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const timelines = await callControl(installation.controlUrl, 'listTimelines', {
    params: { tenantId: context.tenantId(installation) },
  })
  const branchOf = new Map(timelines.map(({ timelineId, branch }) => [timelineId, branch]))
  const follow = timelines.some(({ following }) => following !== null)
  context.show(
    timelines,
    formatTable(
      [
        ...['TIMELINE', 'BRANCH', 'FROM', 'START', 'COMMITTED', 'RECEIVED', 'DURABLE'],
        ...(follow ? ['FOLLOWS', 'LAG'] : []),
      ],
      timelines.map((one) => [
        one.timelineId,
        one.branch,
        one.ancestorTimelineId === null
          ? null
          : `${branchOf.get(one.ancestorTimelineId) ?? one.ancestorTimelineId}@${one.ancestorLsn}`,
        one.startLsn,
        one.commitLsn,
        one.lastRecordLsn,
        one.remoteConsistentLsn,
        ...(follow ? followCells(one.following) : []),
      ]),
    ),
  )
}

function followCells(following: FollowInfo | null): (string | null)[] {
  if (following === null) return [null, null]
  const { source, lagBytes } = following
  return [source, lagBytes === null ? null : `${lagBytes} B`]
}
