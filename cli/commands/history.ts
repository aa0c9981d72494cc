/** `zenith branch lsn|time`: what was when. */
import { callControl } from '#libs/api/control-client.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

/** The search may have to wait for WAL that is on its way. */
const SEARCH_MS = 90_000

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
