/** `zenith tenant split`: begins a split, or joins the one under way, and tells how far it is. */
import { setTimeout as sleep } from 'node:timers/promises'
import { callControl } from '#libs/api/control-client.ts'
import type { TenantMoveInfo } from '#libs/api/fleet.ts'
import type { SplitInfo } from '#libs/api/split.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Installation } from '../installation/installation.ts'
import { describeMove, describeWay } from './pageserver-list.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

const POLL_MS = 200

const PHASES: Record<string, string> = {
  hold: 'the shards write what they have to object storage',
  attach: 'the new shards take over, and catch up with the WAL',
  tell: 'computes turn to the new shards',
  'clean-up': 'the old shards are let go',
}

export interface TenantSplitOptions extends CommonOptions {
  readonly shards: number
  /** Blocks. */
  readonly stripeSize?: number
  readonly spread?: boolean
  /** Seconds. */
  readonly timeout: number
}

export async function tenantSplit(options: TenantSplitOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const url = installation.controlUrl
  const params = { tenantId: context.tenantId(installation) }
  const { shards, stripeSize, spread, timeout } = options
  const before = await placesOf(installation, params.tenantId)
  let info = await callControl(url, 'splitTenant', {
    params,
    body: {
      shards,
      ...(stripeSize === undefined ? {} : { stripeBlocks: stripeSize }),
      ...(spread === undefined ? {} : { spread }),
    },
  })
  const wasThere = info.split === null
  const deadline = Date.now() + timeout * 1000
  const told = new Set<string>()
  while (isUnderWay(info)) {
    for (const line of await progressOf(installation, info)) {
      if (!told.has(line)) context.say(`  ${line}`)
      told.add(line)
    }
    if (Date.now() > deadline) {
      throw new ZenithError('timeout', `The split has not ended within ${timeout} s.`, {
        hint: 'It goes on by itself; the same command again waits for it.',
      })
    }
    await sleep(POLL_MS)
    // A control plane that is just being started again goes on with it.
    info = await callControl(url, 'getSplit', { params }).catch(() => info)
  }
  // What was quicker than our looks is told as well.
  const after = wasThere ? [] : await placesOf(installation, params.tenantId)
  for (const { shard, pageserverId } of after) {
    // Shards begin where what they were split from is.
    const from = before[shard % before.length]?.pageserverId ?? pageserverId
    const way = `shard ${shard}: ${describeWay(installation, from, pageserverId)}: `
    if (from === pageserverId || [...told].some((line) => line.startsWith(way))) continue
    context.say(`  ${way}done`)
  }
  context.show(info, `${resultOf(info, wasThere)}\n`)
}

/** Shards that wait for a pageserver that does not answer are not waited for. */
function isUnderWay({ split, spread }: SplitInfo): boolean {
  return split !== null || (spread !== null && spread.problem === null)
}

function resultOf({ shardCount, spread }: SplitInfo, wasThere: boolean): string {
  const count = shardCount === 0 ? '1 shard' : `${shardCount} shards`
  const lines = [`The tenant has ${count}${wasThere ? ' already' : ' now'}.`]
  if (spread !== null) lines.push(`They are spread over the pageservers later: ${spread.problem}.`)
  lines.push(
    'zenith pageserver list shows where they are; zenith pageserver move takes one of them elsewhere.',
  )
  return lines.join('\n')
}

/** By the numbers of the shards; nothing when the control plane does not answer. */
async function placesOf(installation: Installation, tenantId: string): Promise<TenantMoveInfo[]> {
  const all = await callControl(installation.controlUrl, 'listPlacements').catch(() => [])
  return all.filter((one) => one.tenantId === tenantId).toSorted((a, b) => a.shard - b.shard)
}

async function progressOf(
  installation: Installation,
  { tenantId, split, spread }: SplitInfo,
): Promise<string[]> {
  if (split === null) {
    if (spread === null) return []
    return (await placesOf(installation, tenantId))
      .filter(({ move }) => move !== null)
      .map((one) => `shard ${one.shard}: ${describeMove(installation, one)}`)
  }
  const lines = [`${split.phase}: ${PHASES[split.phase] ?? 'under way'}`]
  if (split.lost.length > 0) lines.push(`not waited for: shard ${split.lost.join(', ')}`)
  if (split.problem !== null) lines.push(`waits: ${split.problem}`)
  return lines
}
