/**
 * Brings a machine to where Zenith runs: Debian packages, the system user, Postgres with our
 * patches, the modules of pgxn/. Each step is skipped when it is done already, an interrupted run
 * continues when repeated, and two at once wait for each other. When all is there this takes a few
 * milliseconds and prints nothing.
 *
 *   scripts/with-node.sh scripts/setup.ts
 *
 * Environment: ZENITH_CACHE (where builds are kept), ZENITH_POSTGRES_SOURCE (a tarball or tree to
 * build instead of Debian's), ZENITH_POSTGRES_SHA256 (vouches for such a tarball),
 * ZENITH_POSTGRES_ASSERTIONS (1: a server with Postgres' own assertions, for this run only).
 */
import { spawnSync } from 'node:child_process'
import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
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
  withAssertions,
} from './setup/postgres-build.ts'
import { candidateSources, type PostgresSource } from './setup/postgres-source.ts'
import { Progress } from './setup/progress.ts'
import { buildTestKit, KIT_LIST, testKitName } from './setup/test-kit.ts'

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
  const prefix =
    finished ??
    (await locked(cache, async (lock, progress) => {
      // The one we waited for has usually built what we need.
      const found = findFinished(cache, sources, patches)
      return found ?? (await build(cache, sources, patches, lock, progress))
    }))
  checkReachable(prefix)
  // The build with assertions is for one run: what works in this tree keeps the usual one.
  if (withAssertions()) process.env['ZENITH_POSTGRES_PREFIX'] = prefix
  else record(prefix)
  return prefix
}

/**
 * Returns the folder of PostgreSQL's own tests for the server that `setUp` builds, making it when
 * it is not there yet. Only tests need it.
 */
export async function setUpTestKit(): Promise<string> {
  await setUp()
  const cache = new Cache()
  const sources = await candidateSources(cache)
  const patches = patchFiles(PATCHES)
  return (
    findKit(cache, sources, patches) ??
    (await locked(cache, async (lock, progress) => {
      const finished = findKit(cache, sources, patches)
      if (finished !== null) return finished
      const base = findBase(cache, sources, patches)
      assert(base !== null, 'Postgres is not built after set-up')
      const name = testKitName(base.name)
      return await progress.step("Making PostgreSQL's own tests ready", (onProgress) =>
        buildTestKit({
          sources,
          patches,
          prefix: base.prefix,
          name,
          step: { cache, lockFd: lock.fd, onProgress },
        }),
      )
    }))
  )
}

function findKit(
  cache: Cache,
  sources: readonly PostgresSource[],
  patches: readonly string[],
): string | null {
  const base = findBase(cache, sources, patches)
  return base === null ? null : cache.find(testKitName(base.name), KIT_LIST)
}

/** The server without our modules, if it has been built before. */
function findBase(
  cache: Cache,
  sources: readonly PostgresSource[],
  patches: readonly string[],
): { name: string; prefix: string } | null {
  for (const source of sources) {
    const name = installName(source, patches)
    const prefix = cache.findInstalled(name)
    if (prefix !== null) return { name, prefix }
  }
  return null
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

/** The server without our modules, which `setUp` has built, and its name in the cache. */
export async function basePostgres(cache: Cache): Promise<{ name: string; prefix: string }> {
  const base = findBase(cache, await candidateSources(cache), patchFiles(PATCHES))
  assert(base !== null, 'Postgres is not built after set-up')
  return base
}

/** Runs `work` while no other set-up is at work in the cache, or at the part that has its own lock. */
export async function locked<T>(
  cache: Cache,
  work: (lock: FileLock, progress: Progress) => Promise<T>,
  lockPath = cache.lockPath,
): Promise<T> {
  prepareCache(cache)
  const progress = new Progress()
  const lock = await lockFile(lockPath, {
    purpose: 'Another set-up',
    timeoutMs: LOCK_TIMEOUT_MS,
    onWait: (holder) => progress.note(`${holder} is at work: waiting for it.`),
  })
  try {
    return await work(lock, progress)
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
  let base = findBase(cache, sources, patches)
  if (base === null) {
    const source = await progress.step('Fetching the source of Postgres', (show) =>
      fetchAndUnpack(sources, patches, step(show)),
    )
    const name = installName(source, patches)
    const title = `Building Postgres ${source.version} (once, some minutes)`
    const prefix = await progress.step(title, (show) => buildPostgres(name, step(show)))
    base = { name, prefix }
  }
  const { name, prefix } = base
  return await progress.step('Building the Postgres extension', (show) =>
    buildPgxn(prefix, PGXN, pgxnInstallName(name, PGXN), step(show)),
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
