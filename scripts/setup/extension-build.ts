/**
 * Builds extensions of others against our Postgres, for their own tests. In the cache:
 *
 *   <postgres>-<extension>-<version>-<key>/source/    the built tree, in which its tests run
 *                                         root/       what `make install` put where
 *                                         built       there when all of it is; the prefix it is for
 *   <prefix>-with-<extension>-<key>/      a server: the prefix by hard links, plus the extension
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import { runLogged } from './command.ts'
import { downloadDebianSource } from './debian-source.ts'
import type { ExtensionRelease } from './extension-versions.ts'
import { sha256File, shortHash } from './file-hash.ts'
import { copyPrefix } from './pgxn-build.ts'
import type { BuildStep } from './postgres-build.ts'

/** Raised when this recipe changes, so that what the old one built is not used. */
const RECIPE = 1

export const BUILT_MARK = 'built'

/** Name in the cache of an extension built for Postgres `postgresName`. */
export function extensionBuildName(postgresName: string, extension: ExtensionRelease): string {
  return `${postgresName}-${extension.name}-${extension.version}-${keyOf(extension)}`
}

/** Name in the cache of the server `prefixName` with the extension. */
export function extensionServerName(prefixName: string, extension: ExtensionRelease): string {
  return `${prefixName}-with-${extension.name}-${keyOf(extension)}`
}

function keyOf(extension: ExtensionRelease): string {
  return shortHash([RECIPE, extension])
}

/** Builds it for the Postgres in `prefix`; returns the folder described above. */
export async function buildExtension(options: {
  extension: ExtensionRelease
  prefix: string
  name: string
  step: BuildStep
}): Promise<string> {
  const { extension, prefix, name, step } = options
  const { cache, lockFd } = step
  const logFile = cache.log(extension.name)
  const folder = cache.path(name)
  const source = join(folder, 'source')
  const tarball = await fetchTarball(extension, step)
  // Built where it stays: its makefiles remember the place.
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(source, { recursive: true })
  const run = (command: readonly string[], cwd: string) =>
    runLogged({ what: `Building ${extension.name}`, command, cwd, logFile, lockFd })
  const unpack = ['tar', '--no-same-owner', '--strip-components=1', '-C', source, '-xf', tarball]
  await run(unpack, folder)
  const pgConfig = join(prefix, 'bin', 'pg_config')
  if (extension.configure !== null) {
    step.onProgress('configure')
    await run(['./configure', `--with-pgconfig=${pgConfig}`, ...extension.configure], source)
  }
  step.onProgress('make')
  const make = ['make', `PG_CONFIG=${pgConfig}`, ...extension.make]
  await run([...make, `-j${availableParallelism()}`], source)
  await run([...make, 'install', `DESTDIR=${join(folder, 'root')}`], source)
  if (extension.makeTests !== null) await run([...make, ...extension.makeTests], source)
  writeFileSync(join(folder, BUILT_MARK), prefix)
  return folder
}

/** Makes the server `name` from the one in `prefix` and a built extension; returns its prefix. */
export async function joinExtension(options: {
  built: string
  prefix: string
  name: string
  step: BuildStep
}): Promise<string> {
  const { built, prefix, name, step } = options
  const { cache, lockFd } = step
  const staging = cache.path(`${name}.new`)
  const builtFor = readFileSync(join(built, BUILT_MARK), 'utf8')
  rmSync(staging, { recursive: true, force: true })
  await copyPrefix(prefix, staging, step)
  await runLogged({
    what: `Adding ${basename(built)} to ${basename(prefix)}`,
    // What `make install` put below its root repeats the whole path of the prefix it was built for.
    command: ['cp', '-a', `${join(built, 'root', builtFor)}/.`, staging],
    logFile: cache.log('extension-join'),
    lockFd,
  })
  rmSync(cache.path(name), { recursive: true, force: true })
  renameSync(staging, cache.path(name))
  return cache.path(name)
}

async function fetchTarball(extension: ExtensionRelease, step: BuildStep): Promise<string> {
  const { cache, lockFd } = step
  const kept = join(cache.sourceDir, extension.tarball)
  if (existsSync(kept) && (await sha256File(kept)) === extension.sha256) return kept
  step.onProgress('download')
  const hint = `Its tests are run where Debian's ${extension.sourcePackage} can be had.`
  const tarball = await downloadDebianSource({
    sourcePackage: extension.sourcePackage,
    what: `Fetching the source of ${extension.name} from the Debian mirror`,
    hint,
    logFile: cache.log(extension.name),
    cache,
    lockFd,
    check: (offered) => {
      if (offered === extension.tarball) return
      const found = offered === '' ? `no ${extension.sourcePackage}` : offered
      throw new ZenithError(
        'precondition_failed',
        `The Debian mirror of this machine has ${found}; these tests are for ${extension.tarball}.`,
        { hint },
      )
    },
  })
  const sha256 = await sha256File(tarball)
  if (sha256 !== extension.sha256) {
    throw new ZenithError(
      'corrupt',
      `${extension.tarball} has the sha256 ${sha256}, not ${extension.sha256}.`,
    )
  }
  renameSync(tarball, kept)
  return kept
}
