/** `zenith branch lsn|time`: what was when. */
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
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
  if (found.answer === 'past') {
    throw notKept(`${time} is before what is kept of ${name}`, found.lsn, found.oldestTime)
  }
  const remarks = {
    present: '',
    future: `That is the end of ${name}: no commit is later than ${time}.\n`,
    nodata: `That is the end of ${name}: nothing has been committed on it yet, as far as is known.\n`,
  }
  context.show(found, `${found.lsn}\n`)
  context.remark(remarks[found.answer])
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
  if (found.answer === 'past') {
    throw notKept(`${lsn} is before what is kept of ${name}`, found.oldestLsn, found.time)
  }
  if (found.answer === 'nodata') {
    throw new ZenithError(
      'not_found',
      `Nothing has been committed on ${name} up to ${lsn}, as far as is known.`,
    )
  }
  context.show(found, `${found.time}\n`)
  if (found.answer === 'future') {
    context.remark(
      `${lsn} is after the end of ${name}, ${found.lastLsn}: that was its last commit.\n`,
    )
  }
}

function notKept(what: string, oldestLsn: string, oldestTime: string | null): ZenithError {
  const since = oldestTime === null ? '' : `, ${oldestTime}`
  return new ZenithError('not_found', `${what}: it begins at ${oldestLsn}${since}.`, {
    hint: 'How much is kept from now on is set with "zenith tenant set --history".',
  })
}
