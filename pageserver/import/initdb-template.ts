/**
 * A new cluster for a new tenant. initdb takes about two seconds, so its result is kept as a
 * template in the pageserver's folder, one per Postgres build; each tenant gets a copy with its own
 * system identifier and authentication nonce, which live in pg_control alone once WAL is left out.
 */
import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, realpathSync, statSync } from 'node:fs'
import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { COMPUTE_SETTINGS } from '#libs/pg/compute-settings.ts'
import { type ControlFile, parseControlFile } from '#libs/pg/control-file.ts'
import type { PostgresInstall } from '#libs/postgres-install.ts'
import { removeUnprivilegedDir, runAs, unprivilegedDir } from '#libs/system-user.ts'

const run = promisify(execFile)

const INITDB_ARGUMENTS = [
  '--username=zenith_admin',
  '--encoding=UTF8',
  '--locale-provider=builtin',
  '--builtin-locale=C.UTF-8',
  '--locale=C.UTF-8',
  '--auth=trust',
  '--no-sync',
  '--no-instructions',
] as const

const INITDB_TIMEOUT_MS = 120_000
const VERSION_FILE = 'zenith-version'
const NONCE_OFFSET = 256
const NONCE_SIZE = 32

export interface InitdbTemplate {
  /** A data folder without pg_wal. */
  folder: string
  /** As server_version_num: 170011. */
  pgVersion: number
}

export interface TemplateOptions {
  postgres: PostgresInstall
  /** Where templates are kept. */
  cacheFolder: string
  /** initdb writes below it. */
  scratchFolder: string
  log: Logger
}

/** Returns the template of this Postgres build, running initdb if there is none yet. */
export async function initdbTemplate(options: TemplateOptions): Promise<InitdbTemplate> {
  const folder = join(options.cacheFolder, templateName(options.postgres))
  const version = join(folder, VERSION_FILE)
  if (!existsSync(version)) await makeTemplate(folder, options)
  return { folder, pgVersion: Number(await readFile(version, 'utf8')) }
}

/** The name says which build made it; templates of several builds may lie side by side. */
export function templateName(postgres: PostgresInstall): string {
  const program = realpathSync(postgres.bin('postgres'))
  const { size, mtimeMs } = statSync(program)
  const identity = [program, size, mtimeMs, ...INITDB_ARGUMENTS].join('\0')
  return `initdb-${createHash('sha256').update(identity).digest('hex').slice(0, 16)}`
}

async function makeTemplate(folder: string, options: TemplateOptions): Promise<void> {
  const { postgres, log } = options
  const startedAt = performance.now()
  const scratch = join(options.scratchFolder, `initdb-${process.pid}`)
  const work = unprivilegedDir(scratch)
  const partial = `${folder}.partial-${process.pid}`
  try {
    const data = join(work, 'data')
    await runInitdb(postgres, data, runAs() ?? {})
    const { stdout } = await run(postgres.bin('postgres'), ['--version'])
    await rm(partial, { recursive: true, force: true })
    await mkdir(partial, { recursive: true })
    for (const part of ['base', 'global', 'pg_xact', 'pg_multixact']) {
      await cp(join(data, part), join(partial, part), { recursive: true })
    }
    await writeFile(join(partial, VERSION_FILE), String(parseServerVersion(stdout)))
    // Whoever was first may be reading from it already.
    if (existsSync(join(folder, VERSION_FILE))) return
    await rm(folder, { recursive: true, force: true })
    await rename(partial, folder).catch((error: unknown) => {
      if (!existsSync(join(folder, VERSION_FILE))) throw error
    })
  } finally {
    removeUnprivilegedDir(scratch)
    await rm(partial, { recursive: true, force: true })
  }
  log.info({ elapsedMs: Math.round(performance.now() - startedAt) }, 'made an initdb template')
}

async function runInitdb(
  postgres: PostgresInstall,
  data: string,
  user: { uid?: number; gid?: number },
): Promise<void> {
  try {
    await run(postgres.bin('initdb'), ['--pgdata', data, ...INITDB_ARGUMENTS], {
      ...user,
      timeout: INITDB_TIMEOUT_MS,
      cwd: '/',
      env: { PATH: process.env['PATH'] ?? '', LC_ALL: 'C' },
    })
  } catch (error) {
    const stderr = (error as { stderr?: string }).stderr?.trim()
    throw new ZenithError('internal', `initdb failed: ${stderr || errorMessage(error)}`, {
      cause: error,
    })
  }
}

/** 170011 from `postgres (PostgreSQL) 17.11`. Throws `unsupported` for another major version. */
export function parseServerVersion(text: string): number {
  const match = /\(PostgreSQL\) (\d+)\.(\d+)/.exec(text)
  if (match?.[1] !== '17') {
    throw new ZenithError('unsupported', `"${text.trim()}" is not Postgres 17`)
  }
  return 17 * 10_000 + Number(match[2])
}

/**
 * The template's pg_control with an identity of its own, as initdb makes one (BootStrapXLOG), and
 * with the settings that computes have, so that the first start need not log them.
 */
export async function freshControlFile(template: InitdbTemplate): Promise<ControlFile> {
  const control = parseControlFile(await readFile(join(template.folder, 'global/pg_control')))
  const raw = Buffer.from(control.raw)
  randomBytes(NONCE_SIZE).copy(raw, NONCE_OFFSET)
  return {
    ...control,
    raw,
    systemId: newSystemId(Date.now()),
    walLevel: COMPUTE_SETTINGS.walLevel,
    walLogHints: COMPUTE_SETTINGS.walLogHints,
    maxConnections: COMPUTE_SETTINGS.maxConnections,
    maxWorkerProcesses: COMPUTE_SETTINGS.maxWorkerProcesses,
    maxWalSenders: COMPUTE_SETTINGS.maxWalSenders,
    maxPreparedXacts: COMPUTE_SETTINGS.maxPreparedTransactions,
    maxLocksPerXact: COMPUTE_SETTINGS.maxLocksPerTransaction,
    trackCommitTimestamp: COMPUTE_SETTINGS.trackCommitTimestamp,
  }
}

/** Seconds in the high word, as Postgres does, so that it tells the age; random bits below. */
export function newSystemId(nowMs: number): bigint {
  const seconds = BigInt(Math.floor(nowMs / 1000))
  return (seconds << 32n) | BigInt(randomBytes(4).readUInt32BE(0))
}
