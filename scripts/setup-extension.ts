/**
 * Makes a server with an extension of somebody else (`setup/extension-versions.ts`), for its own
 * tests. `./zenith up` does not do this.
 */
import { basename, join } from 'node:path'
import type { FileLock } from '#libs/file-lock.ts'
import { Cache } from './setup/cache.ts'
import { installPackages, missingPackages, packagesNeeded } from './setup/debian-packages.ts'
import {
  BUILT_MARK,
  buildExtension,
  extensionBuildName,
  extensionServerName,
  joinExtension,
} from './setup/extension-build.ts'
import type { ExtensionRelease } from './setup/extension-versions.ts'
import type { Progress } from './setup/progress.ts'
import { basePostgres, locked, setUp } from './setup.ts'

export interface ReadyExtension {
  /** A Postgres prefix with our modules and the extension. */
  readonly prefix: string
  /** The extension's built source tree, with its tests. */
  readonly source: string
}

/** Builds what is missing of it. Throws `precondition_failed` with the way out if that cannot be. */
export async function setUpExtension(extension: ExtensionRelease): Promise<ReadyExtension> {
  const prefix = await setUp()
  const cache = new Cache()
  const base = await basePostgres(cache)
  const buildName = extensionBuildName(base.name, extension)
  const serverName = extensionServerName(basename(prefix), extension)
  const find = (): ReadyExtension | null => {
    const built = cache.find(buildName, BUILT_MARK)
    const server = cache.findInstalled(serverName)
    return built && server ? { prefix: server, source: join(built, 'source') } : null
  }
  const ready = find()
  if (ready !== null) return ready
  // A lock of its own: nobody's server should wait for the build of an extension.
  const lockPath = cache.path('lock-extensions')
  return await locked(
    cache,
    async (lock, progress) => {
      // The one we waited for may have built it.
      const found = find()
      return found ?? (await build({ extension, cache, prefix, base, lock, progress }))
    },
    lockPath,
  )
}

async function build(around: {
  extension: ExtensionRelease
  cache: Cache
  prefix: string
  base: { name: string; prefix: string }
  lock: FileLock
  progress: Progress
}): Promise<ReadyExtension> {
  const { extension, cache, prefix, base, lock, progress } = around
  const lockFd = lock.fd
  const step = (onProgress: (text: string) => void) => ({ cache, lockFd, onProgress })
  const name = extensionBuildName(base.name, extension)
  let built = cache.find(name, BUILT_MARK)
  if (built === null) {
    const missing = missingPackages(extension.debianPackages)
    if (missing.length > 0) {
      if (process.getuid?.() !== 0) throw packagesNeeded(missing, extension.name)
      await progress.step(`Installing ${missing.length} Debian packages`, () =>
        installPackages(missing, cache.log('debian-packages'), lockFd),
      )
    }
    built = await progress.step(`Building ${extension.name} ${extension.version}`, (show) =>
      buildExtension({ extension, prefix: base.prefix, name, step: step(show) }),
    )
  }
  const serverName = extensionServerName(basename(prefix), extension)
  const server =
    cache.findInstalled(serverName) ??
    (await joinExtension({ built, prefix, name: serverName, step: step(() => {}) }))
  return { prefix: server, source: join(built, 'source') }
}
