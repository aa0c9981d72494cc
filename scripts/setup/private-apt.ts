/**
 * apt with a configuration of its own: it offers packages of a newer Debian than the machine may run,
 * from the machine's own mirror, and any user may call it, since nothing of the system is touched.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import { mirrorLine, parseListFile, parseSourcesFile } from './debian-mirror.ts'

/** The first Debian release that has Postgres 17. */
const DEBIAN_SUITE = 'trixie'

export interface PrivateApt {
  /** A folder for its lists and downloads. */
  readonly work: string
  readonly kind: 'deb' | 'deb-src'
  /** For errors: "Fetching the source of ...". */
  readonly what: string
  /** The way out when the machine has no Debian mirror. */
  readonly hint: string
}

/**
 * The beginning of a command, to be followed by `update`, `download` and so on. For it no package is
 * installed. Throws `precondition_failed` when the machine has no Debian mirror.
 */
export function privateApt(options: PrivateApt): string[] {
  const { work } = options
  mkdirSync(join(work, 'lists', 'partial'), { recursive: true })
  mkdirSync(join(work, 'cache', 'archives', 'partial'), { recursive: true })
  const list = join(work, 'sources.list')
  writeFileSync(list, privateSourceList(options))
  const status = join(work, 'status')
  writeFileSync(status, '')
  const settings = [
    `Dir::Etc::sourcelist=${list}`,
    'Dir::Etc::sourceparts=/dev/null',
    'Dir::Etc::preferences=/dev/null',
    'Dir::Etc::preferencesparts=/dev/null',
    `Dir::State::lists=${join(work, 'lists')}`,
    `Dir::State::status=${status}`,
    `Dir::Cache=${join(work, 'cache')}`,
    'Acquire::Languages=none',
    'Acquire::Retries=3',
    'APT::Sandbox::User=',
  ]
  return ['apt-get', '-q', ...settings.flatMap((setting) => ['-o', setting])]
}

function privateSourceList({ kind, what, hint }: PrivateApt): string {
  const entries = []
  for (const file of ['/etc/apt/sources.list', ...aptSourceParts()]) {
    if (!existsSync(file)) continue
    const text = readFileSync(file, 'utf8')
    entries.push(...(file.endsWith('.sources') ? parseSourcesFile(text) : parseListFile(text)))
  }
  const line = mirrorLine(entries, debianCodename(), DEBIAN_SUITE, kind)
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
