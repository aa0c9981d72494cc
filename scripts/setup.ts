/**
 * Brings a machine to where Zenith runs: Debian packages, the system user, Postgres with our
 * patches, the modules of pgxn/. Each step is skipped when it is done already, an interrupted run
 * continues when repeated, and two at once wait for each other. When all is there this takes a few
 * milliseconds and prints nothing.
 *
 *   scripts/with-node.sh scripts/setup.ts
 *
 * Environment: ZENITH_CACHE (where builds are kept), ZENITH_POSTGRES_SOURCE (a tarball or tree to
 * build instead of Debian's), ZENITH_POSTGRES_SHA256 (vouches for such a tarball).
 */
import { spawnSync } from 'node:child_process'
import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { type FileLock, lockFile } from '#libs/file-lock.ts'
import { POSTGRES_RECORD_FILE, recordedPrefix } from '#libs/postgres-install.ts'
import { runAs, systemUserName } from '#libs/system-user.ts'
import { Cache } from './setup/cache.ts'
import { installPackages, missingPackages, packagesNeeded } from './setup/debian-packages.ts'
import { buildPgxn, pgxnInstallName } from './setup/pgxn-build.ts'
import {
  type BuildStep,
  buildPostgres,
  fetchAndUnpack,
  installName,
  patchFiles,
} from './setup/postgres-build.ts'
import { candidateSources, type PostgresSource } from './setup/postgres-source.ts'
import { Progress } from './setup/progress.ts'

const LOCK_TIMEOUT_MS = 3_600_000
const PGXN = fileURLToPath(new URL('../pgxn', import.meta.url))
const PATCHES = join(PGXN, 'patches', '17')

/** Returns the Postgres prefix, which is recorded for `findPostgres()` as well. */
export async function setUp(): Promise<string> {
  process.umask(0o022)
  const cache = new Cache()
  const sources = await candidateSources(cache)
  const patches = patchFiles(PATCHES)
  const finished = findFinished(cache, sources, patches)
  const prefix = finished ?? (await buildLocked(cache, sources, patches))
  checkReachable(prefix)
  record(prefix)
  return prefix
}

/** The installation that belongs to the work tree as it is, if it has been built before. */
function findFinished(
  cache: Cache,
  sources: readonly PostgresSource[],
  patches: readonly string[],
): string | null {
  for (const source of sources) {
    const base = installName(source, patches)
    const found = cache.findInstalled(pgxnInstallName(base, PGXN))
    if (found !== null) return found
  }
  return null
}

async function buildLocked(
  cache: Cache,
  sources: readonly PostgresSource[],
  patches: readonly string[],
): Promise<string> {
  prepareCache(cache)
  const progress = new Progress()
  const lock = await lockFile(cache.lockPath, {
    purpose: 'Another set-up',
    timeoutMs: LOCK_TIMEOUT_MS,
    onWait: (holder) => progress.note(`${holder} is at work: waiting for it.`),
  })
  try {
    // The one we waited for has usually built what we need.
    const finished = findFinished(cache, sources, patches)
    return finished ?? (await build(cache, sources, patches, lock, progress))
  } finally {
    lock.release()
  }
}

async function build(
  cache: Cache,
  sources: readonly PostgresSource[],
  patches: readonly string[],
  lock: FileLock,
  progress: Progress,
): Promise<string> {
  const lockFd = lock.fd
  const missing = missingPackages()
  if (missing.length > 0) {
    if (process.getuid?.() !== 0) throw packagesNeeded(missing)
    await progress.step(`Installing ${missing.length} Debian packages`, () =>
      installPackages(missing, cache.log('debian-packages'), lockFd),
    )
  }
  if (process.getuid?.() === 0) runAs()

  const step = (onProgress: (text: string) => void): BuildStep => ({ cache, lockFd, onProgress })
  const built = sources.map((source) => installName(source, patches))
  const known = built.find((name) => cache.findInstalled(name) !== null)
  let base = known === undefined ? null : cache.findInstalled(known)
  let name = known
  if (base === null || name === undefined) {
    const source = await progress.step('Fetching the source of Postgres', (show) =>
      fetchAndUnpack(sources, patches, step(show)),
    )
    const postgresName = installName(source, patches)
    const title = `Building Postgres ${source.version} (once, some minutes)`
    base = await progress.step(title, (show) => buildPostgres(postgresName, step(show)))
    name = postgresName
  }
  const postgres = base
  const pgxnName = pgxnInstallName(name, PGXN)
  return await progress.step('Building the Postgres extension', (show) =>
    buildPgxn(postgres, PGXN, pgxnName, step(show)),
  )
}

function prepareCache(cache: Cache): void {
  try {
    cache.prepare()
  } catch (error) {
    const reason = errorMessage(error)
    throw new ZenithError('precondition_failed', `The build cache cannot be made: ${reason}`, {
      hint: 'Set ZENITH_CACHE to a folder that you may write to.',
    })
  }
}

/** As root, Postgres will run as another user, who must be able to execute it. */
function checkReachable(prefix: string): void {
  const user = runAs()
  if (user === null) return
  const postgres = join(prefix, 'bin', 'postgres')
  const probe = spawnSync(postgres, ['--version'], { ...user, cwd: '/', encoding: 'utf8' })
  if (probe.status === 0) return
  const reason = probe.error?.message ?? probe.stderr.trim()
  throw new ZenithError(
    'precondition_failed',
    `The system user ${systemUserName()} cannot run ${postgres}: ${reason}`,
    { hint: 'Set ZENITH_CACHE to a folder that every user can reach, such as /var/cache/zenith.' },
  )
}

function record(prefix: string): void {
  if (recordedPrefix() === prefix) return
  try {
    writeFileSync(`${POSTGRES_RECORD_FILE}.new`, `${prefix}\n`)
    renameSync(`${POSTGRES_RECORD_FILE}.new`, POSTGRES_RECORD_FILE)
  } catch (error) {
    throw new ZenithError(
      'precondition_failed',
      `Where Postgres was built cannot be noted: ${errorMessage(error)}`,
      { hint: `Run set-up as the owner of this clone, or set ZENITH_POSTGRES_PREFIX=${prefix}.` },
    )
  }
}

if (import.meta.main) {
  try {
    await setUp()
  } catch (error) {
    const { failSetUp } = await import('./setup/progress.ts')
    failSetUp(error)
  }
}
