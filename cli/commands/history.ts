/** `zenith tenant set|show` and `zenith branch lsn|time`: how much is kept and allowed, and what was when. */
import { callControl } from '#libs/api/control-client.ts'
import type { BranchHistory } from '#libs/api/history.ts'
import type { HistorySettings } from '#libs/api/pageserver-retention.ts'
import type { StoredSizeLimit } from '#libs/api/size-limit.ts'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { formatBytes } from '../output/progress.ts'
import { formatTable } from '../output/table.ts'
import { formatDuration } from '../quantity.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

/** The search may have to wait for WAL that is on its way. */
const SEARCH_MS = 90_000

export interface TenantSetOptions extends CommonOptions {
  /** Milliseconds. */
  readonly history?: number
  readonly historyBytes?: number | 'none'
  readonly maxSize?: number | 'none'
}

export async function tenantSet(options: TenantSetOptions): Promise<void> {
  const context = new CommandContext(options)
  const { history, historyBytes, maxSize } = options
  if (history === undefined && historyBytes === undefined && maxSize === undefined) {
    throw new ZenithError('invalid_argument', 'Nothing is to be set.', {
      hint: 'zenith tenant set --history 7d, with --history-bytes 10GB for a limit of size; or --max-size 10GB.',
    })
  }
  const installation = context.openRunning()
  const url = installation.controlUrl
  const params = { tenantId: context.tenantId(installation) }
  const lines: string[] = []
  const limit =
    maxSize === undefined
      ? null
      : await callControl(url, 'setSizeLimit', {
          params,
          body: { maxBytes: maxSize === 'none' ? null : maxSize },
        })
  if (limit !== null) lines.push(...describeLimit(limit))
  if (history === undefined && historyBytes === undefined) {
    context.show(limit, `${lines.join('\n')}\n`)
    return
  }
  const settings = await callControl(url, 'setHistory', {
    params,
    body: {
      ...(history === undefined ? {} : { pitrIntervalMs: history }),
      ...(historyBytes === undefined
        ? {}
        : { pitrBytes: historyBytes === 'none' ? null : historyBytes }),
    },
  })
  lines.push(`History is kept ${describe(settings)}.`)
  context.show({ ...settings, ...limit }, `${lines.join('\n')}\n`)
}

export async function tenantShow(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const tenantId = context.tenantId(installation)
  const params = { tenantId }
  const history = await callControl(installation.controlUrl, 'getHistory', { params })
  const { maxBytes } = await callControl(installation.controlUrl, 'getSizeLimit', { params })
  context.show(
    { ...history, maxBytes },
    `Tenant ${tenantId} keeps history ${describe(history.settings)}.\n` +
      `${describeLimit({ maxBytes, behind: [] }).join('\n')}\n\n` +
      formatTable(
        ['BRANCH', 'OLDEST LSN', 'OLDEST COMMIT', 'END', 'HISTORY', 'KEPT BELOW', 'LAYERS'],
        history.branches.map(rowOf),
      ),
  )
}

export async function branchLsn(name: string, time: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const found = await callControl(installation.controlUrl, 'lsnAtTime', {
    params: { tenantId: context.tenantId(installation), name },
    query: { time },
    timeoutMs: SEARCH_MS,
  })
  const texts = {
    present: `${found.lsn}\n`,
    future: `${found.lsn}: the end of ${name}; no commit is later than ${time}\n`,
    past: `${time} is before what is kept of ${name}: it begins at ${found.oldestLsn}, ${found.oldestTime}\n`,
    nodata: `Nothing has been committed on ${name} yet, as far as is known; it ends at ${found.lsn}\n`,
  }
  context.show(found, texts[found.answer])
}

export async function branchTime(
  name: string,
  lsnText: string,
  options: CommonOptions,
): Promise<void> {
  const context = new CommandContext(options)
  const lsn = formatLsn(parseLsn(lsnText))
  const installation = context.openRunning()
  const found = await callControl(installation.controlUrl, 'timeAtLsn', {
    params: { tenantId: context.tenantId(installation), name },
    query: { lsn },
    timeoutMs: SEARCH_MS,
  })
  const texts = {
    present: `${found.time}\n`,
    future: `${lsn} is after the end of ${name}, ${found.lastLsn}; its last commit was at ${found.time}\n`,
    past: `${lsn} is before what is kept of ${name}: it begins at ${found.oldestLsn}, ${found.time}\n`,
    nodata: `Nothing has been committed on ${name} up to ${lsn}, as far as is known\n`,
  }
  context.show(found, texts[found.answer])
}

function describe({ pitrIntervalMs, pitrBytes }: HistorySettings): string {
  const time = `for ${formatDuration(pitrIntervalMs)}`
  return pitrBytes === null ? time : `${time}, of that ${formatBytes(pitrBytes)} of WAL at most`
}

function describeLimit({ maxBytes, behind }: StoredSizeLimit): string[] {
  const limit =
    maxBytes === null
      ? 'The databases of a branch may have any size.'
      : `The databases of a branch may have ${formatBytes(maxBytes)} together.`
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
