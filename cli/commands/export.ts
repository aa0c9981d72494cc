/** `zenith export`: a branch as a data folder for stock Postgres, streamed from the pageserver. */
import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { callControl } from '#libs/api/control-client.ts'
import type { ExportPlace } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { connectPgWire } from '#libs/pgwire/client.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { runAs, systemUserName } from '#libs/system-user.ts'
import { TarExtractor } from '#libs/tar-extract.ts'
import { parsePlace } from '../branch-place.ts'
import { shownPath } from '../installation/installation.ts'
import { formatBytes, Progress } from '../output/progress.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

export interface ExportOptions extends CommonOptions {
  readonly format?: string
  readonly checksums?: string
  readonly sync: boolean
}

/** Takes the archive; `abort` leaves nothing behind. */
interface Target {
  write(chunk: Buffer): void
  finish(): void
  abort(): void
}

export async function exportBranch(
  reference: string,
  target: string,
  options: ExportOptions,
): Promise<void> {
  const context = new CommandContext(options)
  const { format = 'plain', checksums } = options
  if (format !== 'plain' && format !== 'tar') {
    throw new ZenithError('invalid_argument', `"${format}" is no format: it is plain or tar.`)
  }
  if (checksums !== undefined && checksums !== 'on' && checksums !== 'off') {
    throw new ZenithError('invalid_argument', '--checksums is either on or off.')
  }
  const installation = context.openRunning()
  const { branch: name, ...at } = parsePlace(reference)
  const place = await callControl(installation.controlUrl, 'exportBranch', {
    params: { tenantId: context.tenantId(installation), name },
    body: at,
    timeoutMs: 120_000,
  })
  const output = format === 'tar' ? tarFile(target) : dataFolder(target, options.sync)
  const startedAt = performance.now()
  const progress = new Progress(`Exporting ${place.branch} at ${place.lsn}`, place.sizeBytes)
  let bytes = 0
  try {
    for await (const chunk of archive(place, checksums)) {
      output.write(chunk)
      bytes += chunk.length
      if (!context.json) progress.show(bytes)
    }
    output.finish()
  } catch (error) {
    output.abort()
    throw withAdvice(error, place)
  } finally {
    progress.end()
  }
  const seconds = (performance.now() - startedAt) / 1000
  const start = startCommand(target)
  if (target === '-') return
  context.show(
    { ...place, target: resolve(target), format, bytes, start: format === 'plain' ? start : null },
    `Exported ${place.branch} at ${place.lsn} to ${shownPath(resolve(target))}: ` +
      `${formatBytes(bytes)} in ${seconds.toFixed(1)} s\n` +
      (format === 'plain' ? `Start it with:\n  ${start}\n` : unpackAdvice(target)),
  )
}

async function* archive(place: ExportPlace, checksums: string | undefined): AsyncGenerator<Buffer> {
  const { host, pgPort, timelineId, lsn, shards } = place
  const client = await connectPgWire({ host, port: pgPort, applicationName: 'zenith export' })
  try {
    const tenantId = tenantShardId(place.tenantId, 0, shards?.length ?? 1)
    const option = checksums === undefined ? '' : ` checksums=${checksums}`
    yield* client.copyOut(`export ${tenantId} ${timelineId} ${lsn}${option}${shardOption(shards)}`)
  } finally {
    client.destroy()
  }
}

/** Shard 0 gets the others' pages from where they are. */
function shardOption(shards: ExportPlace['shards']): string {
  if (shards === undefined) return ''
  const list = shards.map(
    ({ host, pgPort }) => `${host.includes(':') ? `[${host}]` : host}:${pgPort}`,
  )
  return ` shards=${list.join(',')}`
}

function tarFile(path: string): Target {
  if (path !== '-' && existsSync(path)) throw inTheWay(path, 'a file')
  const descriptor = path === '-' ? 1 : openSync(path, 'wx', 0o600)
  return {
    write: (chunk) => writeAll(descriptor, chunk),
    finish: () => {
      if (path === '-') return
      fsyncSync(descriptor)
      closeSync(descriptor)
    },
    abort: () => {
      if (path === '-') return
      closeSync(descriptor)
      rmSync(path, { force: true })
    },
  }
}

function writeAll(descriptor: number, chunk: Buffer): void {
  for (let done = 0; done < chunk.length; ) done += writeSync(descriptor, chunk, done)
}

/** Postgres refuses a folder that others may enter or that is not its own. */
function dataFolder(path: string, sync: boolean): Target {
  const isNew = !existsSync(path)
  if (!isNew && readdirSync(path).length > 0) throw inTheWay(path, 'a folder that is not empty')
  mkdirSync(path, { recursive: true, mode: 0o700 })
  chmodSync(path, 0o700)
  const owner = runAs()
  const extractor = new TarExtractor(path, owner)
  if (owner !== null) extractor.own(path)
  return {
    write: (chunk) => extractor.write(chunk),
    finish: () => {
      extractor.end()
      if (sync) syncTree(path)
    },
    abort: () => {
      if (isNew) rmSync(path, { recursive: true, force: true })
      else for (const name of readdirSync(path)) rmSync(join(path, name), { recursive: true })
    },
  }
}

/** Files first, then the folders that name them. */
function syncTree(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const inner = join(path, entry.name)
    if (entry.isDirectory()) syncTree(inner)
    else syncOne(inner)
  }
  syncOne(path)
}

function syncOne(path: string): void {
  const descriptor = openSync(path, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

function inTheWay(path: string, what: string): ZenithError {
  return new ZenithError('already_exists', `${shownPath(resolve(path))} is ${what} already.`, {
    hint: 'Name one that is not there yet.',
  })
}

/** Any Postgres 17 will do; ours is the one that is surely there. */
function startCommand(target: string): string {
  const path = resolve(target)
  const postgres = findPostgres().bin('pg_ctl')
  const log = join(dirname(path), 'postgres.log')
  const user = runAs() === null ? '' : `runuser -u ${systemUserName()} -- `
  const logFile = user === '' ? log : '/tmp/postgres.log'
  return `${user}${postgres} -D ${path} -l ${logFile} start`
}

function unpackAdvice(target: string): string {
  return `Unpack it into a new folder of mode 0700: tar -xf ${target} -C <folder>\n`
}

function withAdvice(error: unknown, { branch, lsn }: ExportPlace): unknown {
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'ENOSPC') {
    return new ZenithError('unavailable', `No room is left on the disk: ${errorMessage(error)}`, {
      hint: 'What was written is removed again; choose a larger disk.',
    })
  }
  if (!(error instanceof ZenithError) || error.code !== 'unavailable') return error
  const message = `The export of "${branch}" at ${lsn} broke off: ${error.message}.`
  return new ZenithError('unavailable', message, {
    cause: error,
    hint: `Nothing of it is left. The same again: zenith export ${branch}@${lsn} <target>.`,
  })
}
