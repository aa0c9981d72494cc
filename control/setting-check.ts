/**
 * Asks Postgres itself whether it would take settings, without starting it: `postgres -C` reads
 * its command line with all checks and ends.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { libraryNames, settingLine } from '#libs/pg/setting-text.ts'
import { protectionOf } from '#libs/pg/protected-settings.ts'
import { findPostgres, type PostgresInstall } from '#libs/postgres-install.ts'

const run = promisify(execFile)
const CHECK_TIMEOUT_MS = 10_000
/** Settings that name libraries: Postgres looks for those only when it starts, or a session does. */
const LIBRARY_LISTS = ['shared_preload_libraries', 'session_preload_libraries']

/**
 * Resolves if Postgres would take all of them. Throws `invalid_argument` with its own message, or
 * `precondition_failed` for a setting that belongs to Zenith.
 */
export async function checkSettings(settings: Readonly<Record<string, string>>): Promise<void> {
  const entries = Object.entries(settings)
  if (entries.length === 0) return
  for (const [name, value] of entries) {
    settingLine(name, value)
    const protection = protectionOf(name, value)
    if (protection === null) continue
    throw new ZenithError('precondition_failed', `"${name}" cannot be set: ${protection}.`, {
      hint: 'Every other setting of Postgres can be.',
    })
  }
  const postgres = findPostgres()
  await askPostgres(postgres, entries)
  for (const [name, value] of entries) {
    if (LIBRARY_LISTS.includes(name.toLowerCase())) checkLibraries(postgres, value)
  }
}

async function askPostgres(
  postgres: PostgresInstall,
  entries: readonly (readonly [string, string])[],
): Promise<void> {
  try {
    const words = entries.flatMap(([name, value]) => ['-c', `${name}=${value}`])
    // -C comes first: then Postgres does not mind being run by root.
    const noFiles = ['-D', '/', '-c', 'config_file=/dev/null']
    const args = ['-C', 'server_version', ...noFiles, ...words]
    await run(postgres.bin('postgres'), args, {
      timeout: CHECK_TIMEOUT_MS,
      env: { PATH: process.env['PATH'], LC_ALL: 'C.UTF-8', TZ: 'UTC' },
    })
  } catch (error) {
    const said = wordsOf((error as { stderr?: string }).stderr ?? '')
    throw new ZenithError(
      'invalid_argument',
      `Postgres says: ${said.message ?? errorMessage(error)}`,
      {
        ...(said.hint === null ? {} : { hint: said.hint }),
        cause: error,
      },
    )
  }
}

function checkLibraries(postgres: PostgresInstall, list: string): void {
  for (const name of libraryNames(list)) {
    if (name.includes('/') || existsSync(join(postgres.libDir, `${name}.so`))) continue
    throw new ZenithError('invalid_argument', `There is no library "${name}" to preload.`, {
      hint: `It would be ${name}.so in ${postgres.libDir}.`,
    })
  }
}

/** Message and hint of a Postgres that gave up, without time and process number. */
export function wordsOf(stderr: string): { message: string | null; hint: string | null } {
  const after = (word: string): string | null =>
    new RegExp(`${word}:  (.*)`).exec(stderr)?.[1]?.trim() ?? null
  const detail = after('DETAIL')
  const message = after('FATAL') ?? after('ERROR')
  return {
    message: message === null ? null : `${message}.${detail === null ? '' : ` ${detail}`}`,
    hint: after('HINT'),
  }
}
