/**
 * Where the patched Postgres is installed. Set-up (`scripts/setup.ts`) builds it into a cache and
 * writes the prefix to a small record file in the work tree; every process finds it there,
 * so nobody has to pass the path around.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ZenithError } from './errors.ts'

/** One line: the install prefix. Written by set-up, not committed: it is of this machine. */
export const POSTGRES_RECORD_FILE: string = fileURLToPath(
  new URL('../.postgres-prefix', import.meta.url),
)

export interface PostgresInstall {
  readonly prefix: string
  /** Where loadable modules (`zenith.so`) are: what `pg_config --pkglibdir` prints. */
  readonly libDir: string
  /** Full path of a program, as `bin('initdb')`. */
  bin(name: string): string
}

/**
 * Finds Postgres: the prefix given, else `ZENITH_POSTGRES_PREFIX`, else the one set-up recorded.
 * Throws `not_found` with the way out when there is none, or when the folder holds no Postgres.
 */
export function findPostgres(prefix?: string): PostgresInstall {
  const found = prefix || process.env['ZENITH_POSTGRES_PREFIX'] || recordedPrefix()
  if (found === null) {
    throw new ZenithError('not_found', 'Postgres has not been built on this machine yet.', {
      hint: 'Run ./zenith up, which builds it once.',
    })
  }
  if (!existsSync(join(found, 'bin', 'postgres'))) {
    throw new ZenithError('not_found', `There is no Postgres in ${found}.`, {
      hint: 'Run ./zenith up, which builds it again.',
    })
  }
  return describe(found)
}

/** The prefix that set-up recorded, or null before the first set-up. */
export function recordedPrefix(): string | null {
  try {
    return readFileSync(POSTGRES_RECORD_FILE, 'utf8').trim() || null
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

function describe(prefix: string): PostgresInstall {
  // Postgres adds a "postgresql" folder below lib unless the prefix itself names it.
  const ownFolder = join(prefix, 'lib', 'postgresql')
  return {
    prefix,
    libDir: existsSync(ownFolder) ? ownFolder : join(prefix, 'lib'),
    bin: (name) => join(prefix, 'bin', name),
  }
}
