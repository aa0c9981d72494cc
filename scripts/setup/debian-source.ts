/**
 * Downloads source packages from the machine's own Debian mirror, by apt with a private
 * configuration: the sources may be of a newer Debian than the machine runs, and any user may do it.
 */
import { mkdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Cache } from './cache.ts'
import { runLogged } from './command.ts'
import { privateApt } from './private-apt.ts'

export interface DebianDownload {
  readonly sourcePackage: string
  /** For errors: "Fetching the source of ...". */
  readonly what: string
  /** The way out when the machine has no Debian mirror. */
  readonly hint: string
  readonly logFile: string
  readonly cache: Cache
  readonly lockFd: number
  /** Sees the name of the upstream tarball that the mirror has, and throws if it is not wanted. */
  readonly check: (offered: string) => void
}

/** Returns the upstream tarball, whose content is still to be checked, under a passing name. */
export async function downloadDebianSource(options: DebianDownload): Promise<string> {
  const { sourcePackage, what, logFile, cache, lockFd } = options
  const work = cache.path(`apt-${sourcePackage}`)
  const apt = privateApt({ work, kind: 'deb-src', what, hint: options.hint })
  await runLogged({ what, command: [...apt, 'update'], logFile, lockFd })

  // What is offered is looked at before anything is downloaded.
  const source = ['source', '--download-only', '--tar-only']
  let offered = ''
  await runLogged({
    what,
    command: [...apt, ...source, '--print-uris', sourcePackage],
    logFile,
    lockFd,
    onLine: (line) => {
      offered = / (\S+\.orig\.tar\.\w+) \d+ /.exec(line)?.[1] ?? offered
    },
  })
  options.check(offered)
  const download = join(work, 'download')
  rmSync(download, { recursive: true, force: true })
  mkdirSync(download)
  const command = [...apt, ...source, sourcePackage]
  await runLogged({ what, command, cwd: download, logFile, lockFd })
  const tarball = join(cache.sourceDir, `${offered}.new`)
  renameSync(join(download, offered), tarball)
  rmSync(work, { recursive: true, force: true })
  return tarball
}
