/**
 * Makes an S3 server available to tests: moto, from packages of Debian, which heeds conditional puts.
 * They are unpacked in the cache, together with the Python and the C library that they were built
 * for, so the machine's own are neither needed nor touched. `./zenith up` does not do this.
 */
import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { Cache } from './setup/cache.ts'
import { runLogged } from './setup/command.ts'
import { privateApt } from './setup/private-apt.ts'
import { locked } from './setup.ts'

/** Raised when the list below changes. */
const UNPACKED = 'moto-debian-1'
const LOADER = join('usr', 'lib64', 'ld-linux-x86-64.so.2')
/** moto names the last one only as needed by its server, without depending on it. */
const PACKAGES = ['python3-moto', 'python3-flask-cors']
/** What the packages above depend on, but a program that is not installed can do without. */
const LEFT_OUT = /^(tar|dpkg|debconf|ca-certificates|openssl|netbase|gcc-.*-base)$/
const WHAT = 'Fetching an S3 server'

/**
 * As moto's own server, but one request at a time: between its threads two conditional puts of a name
 * can both win, which no real store allows.
 */
const SERVE = `import argparse
from werkzeug.serving import run_simple
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
parser = argparse.ArgumentParser()
parser.add_argument('-H')
parser.add_argument('-p', type=int)
args = parser.parse_args()
run_simple(args.H, args.p, DomainDispatcherApplication(create_backend_app), threaded=False)
`

/** A command and its environment, to which options of moto's server are added. */
export interface S3ServerProgram {
  readonly command: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

/** Throws `precondition_failed` with the way out when it cannot be had. */
export async function setUpS3Server(): Promise<S3ServerProgram> {
  const cache = new Cache()
  const found = cache.find(UNPACKED, LOADER)
  if (found !== null) return programIn(found)
  return await locked(
    cache,
    async (lock, progress) => {
      const made = cache.find(UNPACKED, LOADER)
      return programIn(made ?? (await progress.step(WHAT, () => fetchServer(cache, lock.fd))))
    },
    cache.path('lock-moto'),
  )
}

function programIn(root: string): S3ServerProgram {
  const libraries = ['usr/lib/x86_64-linux-gnu', 'lib/x86_64-linux-gnu'].map((one) =>
    join(root, one),
  )
  return {
    command: [
      join(root, LOADER),
      ...['--library-path', libraries.join(':')],
      ...[join(root, 'usr', 'bin', 'python3'), '-W', 'ignore', '-c', SERVE],
    ],
    env: {
      PYTHONHOME: join(root, 'usr'),
      PYTHONPATH: join(root, 'usr', 'lib', 'python3', 'dist-packages'),
      PYTHONDONTWRITEBYTECODE: '1',
    },
  }
}

async function fetchServer(cache: Cache, lockFd: number): Promise<string> {
  const work = cache.path(`${UNPACKED}.new`)
  rmSync(work, { recursive: true, force: true })
  const root = join(work, 'root')
  const packages = join(work, 'packages')
  for (const folder of [root, packages]) mkdirSync(folder, { recursive: true })
  const run = (command: string[], onLine?: (line: string) => void) =>
    runLogged({
      what: WHAT,
      command,
      cwd: packages,
      logFile: cache.log('moto'),
      lockFd,
      ...(onLine ? { onLine } : {}),
    })
  try {
    const apt = privateApt({ work: join(work, 'apt'), kind: 'deb', what: WHAT, hint: WAY_OUT })
    await run([...apt, 'update'])
    const names: string[] = []
    await run([...apt, 'install', '-s', '--no-install-recommends', ...PACKAGES], (line) => {
      const name = /^Inst (\S+)/.exec(line)?.[1]
      if (name !== undefined && !LEFT_OUT.test(name)) names.push(name)
    })
    await run([...apt, 'download', ...names])
    for (const file of readdirSync(packages)) await run(['dpkg-deb', '--extract', file, root])
  } catch (error) {
    throw new ZenithError(
      'precondition_failed',
      `These tests need an S3 server, and it cannot be had: ${errorMessage(error)}`,
      { hint: WAY_OUT },
    )
  }
  const target = cache.path(UNPACKED)
  rmSync(target, { recursive: true, force: true })
  renameSync(root, target)
  rmSync(work, { recursive: true, force: true })
  return target
}

const WAY_OUT = 'Packages of Debian 13 for x86-64 must be within reach of apt.'
