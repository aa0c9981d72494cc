/**
 * Makes an etcd server available to tests: the machine's own if there is one, otherwise Debian's
 * package `etcd-server`, fetched by apt with the machine's own settings and unpacked in the cache.
 * It is not installed, so no service starts and no rights are needed. `./zenith up` does not do this.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { Cache } from './setup/cache.ts'
import { runLogged } from './setup/command.ts'
import { locked } from './setup.ts'

const PACKAGE = 'etcd-server'
const UNPACKED = 'etcd-debian'
const PROGRAM = join('usr', 'bin', 'etcd')

/** Returns the path of the program. Throws `precondition_failed` with the way out when it cannot be had. */
export async function setUpEtcd(): Promise<string> {
  const cache = new Cache()
  const found = findEtcd(cache)
  if (found !== null) return found
  // A lock of its own: nobody's server should wait for this.
  return await locked(
    cache,
    async (lock, progress) =>
      findEtcd(cache) ?? (await progress.step('Fetching etcd', () => fetchEtcd(cache, lock.fd))),
    cache.path('lock-etcd'),
  )
}

function findEtcd(cache: Cache): string | null {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '')
  const own = folders.map((folder) => join(folder, 'etcd')).find((path) => existsSync(path))
  if (own !== undefined) return own
  const unpacked = cache.find(UNPACKED, PROGRAM)
  return unpacked === null ? null : join(unpacked, PROGRAM)
}

async function fetchEtcd(cache: Cache, lockFd: number): Promise<string> {
  const work = cache.path(`${UNPACKED}.new`)
  const logFile = cache.log('etcd')
  rmSync(work, { recursive: true, force: true })
  mkdirSync(work, { recursive: true })
  const run = (command: string[]) =>
    runLogged({ what: 'Fetching etcd', command, cwd: work, logFile, lockFd })
  try {
    await run(['apt-get', '-q', 'download', PACKAGE]).catch(async (error: unknown) => {
      // The lists of packages may be missing or old; only root may renew them.
      if (process.getuid?.() !== 0) throw error
      await run(['apt-get', '-q', '-o', 'DPkg::Lock::Timeout=300', 'update'])
      await run(['apt-get', '-q', 'download', PACKAGE])
    })
    const file = readdirSync(work).find((name) => name.endsWith('.deb'))
    if (file === undefined) throw new Error('apt-get fetched nothing')
    await run(['dpkg-deb', '--extract', file, '.'])
    rmSync(join(work, file))
  } catch (error) {
    throw new ZenithError(
      'precondition_failed',
      `These tests need an etcd server, and it cannot be had: ${errorMessage(error)}`,
      { hint: `Run "apt-get install ${PACKAGE}" as root, or put the program etcd in the PATH.` },
    )
  }
  const target = cache.path(UNPACKED)
  rmSync(target, { recursive: true, force: true })
  renameSync(work, target)
  return join(target, PROGRAM)
}
