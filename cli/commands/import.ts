/** `zenith import`: a cluster of stock Postgres becomes a branch, of a backup or of a live primary. */
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { callControl } from '#libs/api/control-client.ts'
import type { ImportInfo, ImportSource } from '#libs/api/transfer.ts'
import { ERROR_HTTP_STATUS, type ErrorCode, ZenithError } from '#libs/errors.ts'
import type { Installation } from '../installation/installation.ts'
import { formatBytes, Progress } from '../output/progress.ts'
import { parseServerUrl } from '../server-url.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

const POLL_MS = 300
const STOP_TIMEOUT_MS = 120_000
const PHASES: Readonly<Record<ImportInfo['phase'], string>> = {
  waiting: 'waiting',
  fetching: 'fetching the backup',
  checking: 'checking the backup',
  copying: 'taking in files',
  replaying: 'taking in WAL',
  finishing: 'making it durable',
}

export interface ImportOptions extends CommonOptions {
  readonly basebackup?: string
  readonly wal?: string
  readonly from?: string
  readonly follow: boolean
  readonly wait: boolean
}

export async function importBranch(
  name: string | undefined,
  options: ImportOptions,
): Promise<void> {
  const context = new CommandContext(options)
  if (name === undefined) {
    throw new ZenithError('invalid_argument', 'The name of the new branch is missing.', {
      hint: 'As in: zenith import prod --basebackup /srv/backup. See "zenith import --help".',
    })
  }
  const source = sourceOf(options)
  const installation = context.openRunning()
  const tenantId = context.tenantId(installation)
  let info = await callControl(installation.controlUrl, 'startImport', {
    params: { tenantId },
    body: { name, source },
  })
  if (options.wait) info = await waitFor(context, installation, tenantId, name)
  if (info.state === 'failed') throw failureOf(info)
  context.show(info, textOf(info))
}

export async function importStatus(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const info = await callControl(installation.controlUrl, 'getImport', {
    params: { tenantId: context.tenantId(installation), name },
  })
  if (info.state === 'failed') throw failureOf(info)
  context.show(info, textOf(info))
}

export async function importStop(
  name: string,
  options: CommonOptions & { readonly force?: boolean },
): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const info = await callControl(installation.controlUrl, 'stopImport', {
    params: { tenantId: context.tenantId(installation), name },
    body: options.force === true ? { force: true } : {},
    timeoutMs: STOP_TIMEOUT_MS,
  })
  const text =
    info.state === 'stopped'
      ? `Gave up the import of ${name}; nothing is left of it.\n`
      : `Branch ${name} follows no server any more; it can be written to now.\n` +
        `Start a Postgres on it: zenith pg start ${name}\n`
  context.show(info, text)
}

function sourceOf({ basebackup, wal, from, follow }: ImportOptions): ImportSource {
  if ((basebackup === undefined) === (from === undefined)) {
    throw new ZenithError('invalid_argument', 'Say what to import: --basebackup or --from.', {
      hint: 'See "zenith import --help".',
    })
  }
  if (from !== undefined) {
    if (wal !== undefined) {
      throw new ZenithError('invalid_argument', '--wal goes with --basebackup.')
    }
    return { kind: 'postgres', server: parseServerUrl(from), follow }
  }
  return {
    kind: 'backup',
    path: resolve(basebackup as string),
    ...(wal === undefined ? {} : { wal: resolve(wal) }),
  }
}

async function waitFor(
  context: CommandContext,
  installation: Installation,
  tenantId: string,
  name: string,
): Promise<ImportInfo> {
  const progress = new Progress(`Importing ${name}`, null)
  try {
    for (;;) {
      const info = await callControl(installation.controlUrl, 'getImport', {
        params: { tenantId, name },
      })
      if (info.state !== 'running') return info
      const title = `Importing ${name}: ${PHASES[info.phase]}`
      if (!context.json) progress.show(info.doneBytes, info.totalBytes, title)
      await sleep(POLL_MS)
    }
  } finally {
    progress.end()
  }
}

function textOf(info: ImportInfo): string {
  const { name, state, startLsn, following, phase, doneBytes, totalBytes } = info
  if (following !== null) {
    const lag = following.lagBytes === null ? 'unknown' : formatBytes(following.lagBytes)
    const problem = following.lastError === null ? '' : `  ${following.lastError}\n`
    return (
      `Branch ${name} follows Postgres at ${following.source} (${following.state}, lag ${lag}).\n` +
      `${problem}Branch from it: zenith branch <name> ${name}. End it: zenith import stop ${name}\n`
    )
  }
  if (state === 'running') {
    const total = totalBytes === null ? '' : ` of ${formatBytes(totalBytes)}`
    return `Importing ${name}: ${PHASES[phase]}, ${formatBytes(doneBytes)}${total}\n`
  }
  return (
    `Imported branch ${name}, from ${startLsn} on.\n` +
    `Start a Postgres on it: zenith pg start ${name}\n`
  )
}

function failureOf({ name, error }: ImportInfo): ZenithError {
  const code = error !== null && error.code in ERROR_HTTP_STATUS ? error.code : 'internal'
  const hint = error?.hint ?? ''
  return new ZenithError(
    code as ErrorCode,
    `The import of ${name} failed: ${error?.message ?? 'for an unknown reason'}`,
    hint === '' ? {} : { hint },
  )
}
