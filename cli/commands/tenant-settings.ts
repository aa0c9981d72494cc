/** `zenith tenant set|show`: how much a tenant keeps, how large it may become, when it is split. */
import type { SplitPolicyInfo } from '#libs/api/autosplit.ts'
import { callControl } from '#libs/api/control-client.ts'
import type { BranchHistory } from '#libs/api/history.ts'
import type { HistorySettings } from '#libs/api/pageserver-retention.ts'
import type { StoredSizeLimit } from '#libs/api/size-limit.ts'
import type { SplitInfo } from '#libs/api/split.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Installation } from '../installation/installation.ts'
import { formatBytes } from '../output/progress.ts'
import { formatTable } from '../output/table.ts'
import { formatDuration, formatSize } from '../quantity.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'
import { pageserverName } from './pageserver-names.ts'

export interface TenantSetOptions extends CommonOptions {
  /** Milliseconds. */
  readonly history?: number
  readonly historyBytes?: number | 'none'
  readonly maxSize?: number | 'none'
  readonly splitSize?: number | 'off'
  readonly maxShards?: number | 'auto'
}

export async function tenantSet(options: TenantSetOptions): Promise<void> {
  const context = new CommandContext(options)
  const { history, historyBytes, maxSize, splitSize, maxShards } = options
  const setsHistory = history !== undefined || historyBytes !== undefined
  const setsSplit = splitSize !== undefined || maxShards !== undefined
  if (!setsHistory && !setsSplit && maxSize === undefined) {
    throw new ZenithError('invalid_argument', 'Nothing is to be set.', {
      hint: 'zenith tenant set --history 7d, with --history-bytes 10GB for a limit of size; or --max-size 10GB; or --split-size 64GB.',
    })
  }
  const installation = context.openRunning()
  const url = installation.controlUrl
  const params = { tenantId: context.tenantId(installation) }
  const lines: string[] = []
  const answers: object[] = []
  if (maxSize !== undefined) {
    const body = { maxBytes: maxSize === 'none' ? null : maxSize }
    const limit = await callControl(url, 'setSizeLimit', { params, body })
    lines.push(...describeLimit(limit))
    answers.push(limit)
  }
  if (setsSplit) {
    const body = {
      ...(splitSize === undefined ? {} : { shardBytes: splitSize === 'off' ? null : splitSize }),
      ...(maxShards === undefined ? {} : { maxShards: maxShards === 'auto' ? null : maxShards }),
    }
    const policy = await callControl(url, 'setSplitPolicy', { params, body })
    lines.push(describePolicy(policy))
    answers.push(policy)
  }
  if (setsHistory) {
    const body = {
      ...(history === undefined ? {} : { pitrIntervalMs: history }),
      ...(historyBytes === undefined
        ? {}
        : { pitrBytes: historyBytes === 'none' ? null : historyBytes }),
    }
    const settings = await callControl(url, 'setHistory', { params, body })
    lines.push(`History is kept ${describe(settings)}.`)
    answers.push(settings)
  }
  context.show(Object.assign({}, ...answers), `${lines.join('\n')}\n`)
}

export async function tenantShow(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const url = installation.controlUrl
  const tenantId = context.tenantId(installation)
  const params = { tenantId }
  const [history, { maxBytes }, policy, { split, spread }] = await Promise.all([
    callControl(url, 'getHistory', { params }),
    callControl(url, 'getSizeLimit', { params }),
    callControl(url, 'getSplitPolicy', { params }),
    callControl(url, 'getSplit', { params }),
  ])
  const lines = [
    `Tenant ${tenantId} keeps history ${describe(history.settings)}.`,
    ...describeLimit({ maxBytes, behind: [] }),
    ...describeShards(installation, policy, { split, spread }),
  ]
  context.show(
    { ...history, maxBytes, sharding: { ...policy, split, spread } },
    `${lines.join('\n')}\n\n` +
      formatTable(
        ['BRANCH', 'OLDEST LSN', 'OLDEST COMMIT', 'END', 'HISTORY', 'KEPT BELOW', 'LAYERS'],
        history.branches.map(rowOf),
      ),
  )
}

function describe({ pitrIntervalMs, pitrBytes }: HistorySettings): string {
  const time = `for ${formatDuration(pitrIntervalMs)}`
  return pitrBytes === null ? time : `${time}, of that ${formatSize(pitrBytes)} of WAL at most`
}

function describeLimit({ maxBytes, behind }: StoredSizeLimit): string[] {
  const limit =
    maxBytes === null
      ? 'The databases of a branch may have any size.'
      : `The databases of a branch may have ${formatSize(maxBytes)} together.`
  if (behind.length === 0) return [limit]
  return [limit, `Not told yet, and told again every few seconds: ${behind.join(', ')}.`]
}

function rowOf(branch: BranchHistory): (string | null)[] {
  const { oldestLsn, oldestTime, lastRecordLsn, historyBytes, keptLsns, layerBytes } = branch
  return [
    branch.name,
    oldestLsn,
    oldestTime,
    lastRecordLsn,
    historyBytes === null ? null : formatBytes(historyBytes),
    keptLsns === null || keptLsns.length === 0 ? null : keptLsns.join(' '),
    layerBytes === null ? null : formatBytes(layerBytes),
  ]
}

function describeShards(
  installation: Installation,
  policy: SplitPolicyInfo,
  { split, spread }: Pick<SplitInfo, 'split' | 'spread'>,
): string[] {
  const { shards, pageserverIds, largestBytes, lastSplit } = policy
  const places = [...new Set(pageserverIds)].sort((a, b) => a - b)
  const where = places.map((id) => pageserverName(installation, id)).join(', ')
  const part = largestBytes === null ? null : formatBytes(largestBytes / shards)
  const lines = [
    shards === 1
      ? `It is in one piece at ${where}${part === null ? '' : `, with ${part} in its largest branch`}.`
      : `It has ${shards} shards at ${where}${part === null ? '' : `, with ${part} each of its largest branch`}.`,
    describePolicy(policy),
  ]
  if (lastSplit !== null) {
    const { from, to, bySize, startedAt } = lastSplit
    lines.push(`Split ${bySize ? 'by itself ' : ''}from ${from} to ${to} at ${startedAt}.`)
  }
  if (split !== null) {
    const problem = split.problem === null ? '' : ` (waits: ${split.problem})`
    lines.push(`It is just being split into ${split.shards} shards: ${split.phase}${problem}.`)
  }
  if (spread !== null) {
    const problem = spread.problem === null ? '' : ` (waits: ${spread.problem})`
    lines.push(`Its shards are just being spread over the pageservers${problem}.`)
  }
  return lines
}

function describePolicy(policy: SplitPolicyInfo): string {
  const { shardBytes, maxShards, mostShards, shards, largestBytes, wantedShards } = policy
  if (shardBytes === null) return 'It is not split by itself.'
  const bound = formatSize(shardBytes)
  if (maxShards === null && mostShards === 1) {
    return `With one pageserver it is not split by itself; with more, a shard of more than ${bound} is.`
  }
  const limit = `up to ${mostShards}${maxShards === null ? ', as many as there are pageservers' : ''}`
  const rule = `A shard with more than ${bound} is split by itself: ${limit}.`
  if (wantedShards > shards) return `${rule} It is to have ${wantedShards}.`
  if (largestBytes === null || largestBytes / shards <= shardBytes) return rule
  return `${rule} It is larger, and has as many as it may.`
}
