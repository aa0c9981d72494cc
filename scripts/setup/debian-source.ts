/**
 * Downloads source packages from the machine's own Debian mirror, by apt with a private
 * configuration: the sources may be of a newer Debian than the machine runs, and any user may do it.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import type { Cache } from './cache.ts'
import { runLogged } from './command.ts'
import { parseListFile, parseSourcesFile, sourceLine } from './debian-mirror.ts'

/** The first Debian release that has Postgres 17. */
const DEBIAN_SUITE = 'trixie'

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
  const apt = ['apt-get', '-q', ...aptOptions(work, options)]
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

/** Options that point apt at a private configuration, so that any user can run it. */
function aptOptions(work: string, download: DebianDownload): string[] {
  mkdirSync(join(work, 'lists', 'partial'), { recursive: true })
  mkdirSync(join(work, 'cache', 'archives', 'partial'), { recursive: true })
  const list = join(work, 'sources.list')
  writeFileSync(list, privateSourceList(download))
  const settings = [
    `Dir::Etc::sourcelist=${list}`,
    'Dir::Etc::sourceparts=/dev/null',
    'Dir::Etc::preferences=/dev/null',
    'Dir::Etc::preferencesparts=/dev/null',
    `Dir::State::lists=${join(work, 'lists')}`,
    `Dir::Cache=${join(work, 'cache')}`,
    'Acquire::Languages=none',
    'Acquire::Retries=3',
    'APT::Sandbox::User=',
  ]
  return settings.flatMap((setting) => ['-o', setting])
}

function privateSourceList({ what, hint }: DebianDownload): string {
  const entries = []
  for (const file of ['/etc/apt/sources.list', ...aptSourceParts()]) {
    if (!existsSync(file)) continue
    const text = readFileSync(file, 'utf8')
    entries.push(...(file.endsWith('.sources') ? parseSourcesFile(text) : parseListFile(text)))
  }
  const line = sourceLine(entries, debianCodename(), DEBIAN_SUITE)
  if (line !== null) return line
  throw new ZenithError('precondition_failed', `${what}: this machine has none configured.`, {
    hint,
  })
}

function aptSourceParts(): string[] {
  const folder = '/etc/apt/sources.list.d'
  if (!existsSync(folder)) return []
  const files = readdirSync(folder).filter((name) => /\.(list|sources)$/.test(name))
  return files.sort().map((name) => join(folder, name))
}

function debianCodename(): string {
  const release = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : ''
  return /^VERSION_CODENAME="?([^"\n]*)/m.exec(release)?.[1] ?? ''
}
