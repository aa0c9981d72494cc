/**
 * Builds Postgres with our patches into the cache. Everything that decides what comes out (source,
 * patches, options, the machine's system) is part of the folder's name, so nothing is ever built
 * twice or mixed up. An interrupted build leaves its tree and continues there.
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
import { arch, availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import type { Cache } from './cache.ts'
import { runLogged } from './command.ts'
import { hashFiles, shortHash } from './file-hash.ts'
import { fetchSource, type PostgresSource, unpackSource } from './postgres-source.ts'

const CONFIGURE_OPTIONS = [
  '--with-openssl',
  '--with-lz4',
  '--with-zstd',
  '--with-icu',
  '--with-libxml',
  '--with-uuid=e2fs',
  // Debug information of level 1 is small and gives profiles and stack traces their line numbers.
  'CFLAGS=-O2 -g1',
]

/** Whether this run is with a server that checks Postgres' own assertions, several times slower. */
export function withAssertions(): boolean {
  return process.env['ZENITH_POSTGRES_ASSERTIONS'] === '1'
}

function configureOptions(): string[] {
  return withAssertions() ? [...CONFIGURE_OPTIONS, '--enable-cassert'] : CONFIGURE_OPTIONS
}

/** Compiler calls of one build, to show how far it is; being a little off does no harm. */
const COMPILER_CALLS = 1540

export interface BuildStep {
  readonly cache: Cache
  readonly lockFd: number
  /** Shows how far the step is, in a few words. */
  readonly onProgress: (text: string) => void
}

/** The patches for the major version, full paths in the order in which they apply. */
export function patchFiles(folder: string): string[] {
  if (!existsSync(folder)) return []
  const names = readdirSync(folder).filter((name) => name.endsWith('.patch'))
  return names.sort().map((name) => join(folder, name))
}

/** Folder name of the installation in the cache: `postgres-17.11-<key>`. */
export function installName(source: PostgresSource, patches: readonly string[]): string {
  const key = shortHash({
    source: source.contentHash,
    patches: patches.map((patch) => hashFiles(dirname(patch), [basename(patch)])),
    configure: configureOptions(),
    system: systemName(),
  })
  return `postgres-${source.version}-${key}`
}

export async function fetchAndUnpack(
  candidates: readonly PostgresSource[],
  patches: readonly string[],
  step: BuildStep,
): Promise<PostgresSource> {
  const source = await fetchSource(candidates, step.cache, step.lockFd)
  const tree = buildTree(step.cache, installName(source, patches))
  if (!existsSync(tree)) {
    mkdirSync(join(tree, '..'), { recursive: true })
    await unpackSource(source, patches, tree, step.cache.log('postgres-unpack'), step.lockFd)
  }
  return source
}

/** Configures, compiles and installs; returns the prefix. */
export async function buildPostgres(name: string, step: BuildStep): Promise<string> {
  const { cache, lockFd } = step
  const prefix = cache.path(name)
  const tree = buildTree(cache, name)
  const what = 'Building Postgres'
  const configured = join(tree, '.configured')
  const continued = existsSync(configured)
  if (!continued) {
    step.onProgress('configure')
    const command = ['./configure', `--prefix=${prefix}`, ...configureOptions()]
    const logFile = cache.log('postgres-configure')
    await runLogged({ what: 'Configuring Postgres', command, cwd: tree, logFile, lockFd })
    writeFileSync(configured, '')
  }

  const jobs = availableParallelism()
  let calls = 0
  const logFile = cache.log('postgres-make')
  const make = ['make', `-j${jobs}`, 'world-bin']
  const onLine = (line: string): void => {
    if (!line.startsWith('gcc ')) return
    calls += 1
    if (calls % 10 === 0) step.onProgress(percent(calls))
  }
  try {
    await runLogged({ what, command: make, cwd: tree, logFile, lockFd, onLine })
  } catch (error) {
    // A power cut may have left cut-off files that make takes for finished: then begin anew.
    if (continued) rmSync(join(tree, '..'), { recursive: true, force: true })
    throw error
  }

  // Installed aside and renamed, so that a prefix in the cache is always a whole one.
  step.onProgress('install')
  const staging = cache.path(`${name}.new`)
  rmSync(staging, { recursive: true, force: true })
  const install = ['make', '-s', 'install-world-bin', `DESTDIR=${staging}`]
  await runLogged({ what: 'Installing Postgres', command: install, cwd: tree, logFile, lockFd })
  renameSync(join(staging, prefix), prefix)
  rmSync(staging, { recursive: true, force: true })
  rmSync(join(tree, '..'), { recursive: true, force: true })
  return prefix
}

function buildTree(cache: Cache, name: string): string {
  return join(cache.path(`build-${name}`), 'source')
}

function percent(calls: number): string {
  return `${Math.min(99, Math.round((calls * 100) / COMPILER_CALLS))} %`
}

/** A build links to the libraries of one system release, so the cache keeps them apart. */
function systemName(): string {
  const release = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : ''
  const field = (key: string): string => new RegExp(`^${key}=(.*)$`, 'm').exec(release)?.[1] ?? ''
  return `${field('ID')} ${field('VERSION_ID')} ${arch()}`
}
