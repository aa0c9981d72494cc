/**
 * The PostgreSQL source: Debian's source package, or what `ZENITH_POSTGRES_SOURCE` names (a tarball
 * or an unpacked tree). A tarball is used only if its checksum is one we know.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { assert, ZenithError } from '#libs/errors.ts'
import type { Cache } from './cache.ts'
import { runLogged } from './command.ts'
import { downloadDebianSource } from './debian-source.ts'
import { hashTree, sha256File } from './file-hash.ts'
import { POSTGRES_MAJOR, POSTGRES_RELEASES } from './postgres-versions.ts'

const SOURCE_PACKAGE = `postgresql-${POSTGRES_MAJOR}`
const VOUCH = 'ZENITH_POSTGRES_SHA256'

/** A source that is identified, though perhaps not fetched yet. */
export interface PostgresSource {
  readonly version: string
  /** Hash of the content: of the tarball, or of all files of a tree. */
  readonly contentHash: string
  readonly kind: 'debian' | 'tarball' | 'tree'
  /** The tarball or tree; for `debian` where the tarball will be put. */
  readonly path: string
}

/** The source named by the environment, else the releases that Debian's mirrors may have. */
export async function candidateSources(cache: Cache): Promise<PostgresSource[]> {
  const named = process.env['ZENITH_POSTGRES_SOURCE']
  if (named) return [await namedSource(resolve(named), cache)]
  return POSTGRES_RELEASES.map(({ version, sha256 }) => {
    const file = `${SOURCE_PACKAGE}_${version}.orig.tar.bz2`
    return { version, contentHash: sha256, kind: 'debian', path: join(cache.sourceDir, file) }
  })
}

async function namedSource(path: string, cache: Cache): Promise<PostgresSource> {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) {
    throw new ZenithError('not_found', `ZENITH_POSTGRES_SOURCE names ${path}, which is not there.`)
  }
  if (stat.isDirectory()) {
    const version = treeVersion(path)
    const contentHash = hashTree(path, cache.path('tree-hashes.json'), isSourceFile)
    return { version, contentHash, kind: 'tree', path }
  }
  const sha256 = await sha256File(path)
  const known = POSTGRES_RELEASES.find((release) => release.sha256 === sha256)
  if (known !== undefined) {
    return { version: known.version, contentHash: sha256, kind: 'tarball', path }
  }
  const version = /postgresql-(?:17_)?(17\.\d+)\D/.exec(basename(path))?.[1]
  if (process.env[VOUCH] === sha256 && version !== undefined) {
    return { version, contentHash: sha256, kind: 'tarball', path }
  }
  throw unknownChecksum(path, sha256)
}

/** Fetches the tarball from the machine's Debian mirror; nothing to do for named sources. */
export async function fetchSource(
  candidates: readonly PostgresSource[],
  cache: Cache,
  lockFd: number,
): Promise<PostgresSource> {
  const [first] = candidates
  if (first !== undefined && first.kind !== 'debian') return first
  for (const source of candidates) {
    if (!existsSync(source.path)) continue
    if ((await sha256File(source.path)) === source.contentHash) return source
    rmSync(source.path)
  }
  return await downloadSource(candidates, cache, lockFd)
}

/** Puts the source tree into `target`, which must not exist, and applies the patches in order. */
export async function unpackSource(
  source: PostgresSource,
  patches: readonly string[],
  target: string,
  logFile: string,
  lockFd: number,
): Promise<void> {
  const staging = `${target}.new`
  rmSync(staging, { recursive: true, force: true })
  if (source.kind === 'tree') {
    cpSync(source.path, staging, {
      recursive: true,
      filter: (path) => isSourceFile(basename(path)),
    })
  } else {
    mkdirSync(staging, { recursive: true })
    const options = ['--no-same-owner', '--strip-components=1', '-C', staging]
    const command = ['tar', ...options, '-xf', source.path]
    await runLogged({ what: 'Unpacking the source of Postgres', command, logFile, lockFd })
  }
  for (const patch of patches) {
    const options = ['--strip=1', '--forward', '--fuzz=0', '--batch', '--no-backup-if-mismatch']
    await runLogged({
      what: `Applying ${basename(patch)} to Postgres ${source.version}`,
      command: ['patch', ...options, `--input=${patch}`],
      cwd: staging,
      logFile,
      lockFd,
    })
  }
  renameSync(staging, target)
}

async function downloadSource(
  candidates: readonly PostgresSource[],
  cache: Cache,
  lockFd: number,
): Promise<PostgresSource> {
  const tarball = await downloadDebianSource({
    sourcePackage: SOURCE_PACKAGE,
    what: 'Fetching the source of Postgres from the Debian mirror',
    hint: sourceHint(),
    logFile: cache.log('postgres-download'),
    cache,
    lockFd,
    check: (offered) => {
      if (!candidates.some(({ path }) => basename(path) === offered)) throw otherRelease(offered)
    },
  })
  const wanted = candidates.find(({ path }) => basename(path) === basename(tarball, '.new'))
  assert(wanted !== undefined, 'only what was looked for is downloaded')
  const sha256 = await sha256File(tarball)
  if (sha256 !== wanted.contentHash) throw unknownChecksum(tarball, sha256)
  renameSync(tarball, wanted.path)
  return wanted
}

function treeVersion(tree: string): string {
  const configure = join(tree, 'configure')
  const text = existsSync(configure) ? readFileSync(configure, 'utf8') : ''
  const version = /^PACKAGE_VERSION='([^']*)'/m.exec(text)?.[1] ?? ''
  if (!version.startsWith(`${POSTGRES_MAJOR}.`)) {
    const found = version === '' ? 'no Postgres source' : `Postgres ${version}`
    throw new ZenithError(
      'invalid_argument',
      `ZENITH_POSTGRES_SOURCE names ${tree}, where there is ${found}; ` +
        `it must be the source of Postgres ${POSTGRES_MAJOR}.`,
    )
  }
  if (existsSync(join(tree, 'config.status'))) {
    throw new ZenithError('invalid_argument', `The source tree ${tree} has been built in.`, {
      hint: `Clean it with "make distclean", or give a fresh copy.`,
    })
  }
  return version
}

function isSourceFile(name: string): boolean {
  return name !== '.git'
}

function otherRelease(offered: string): ZenithError {
  const versions = POSTGRES_RELEASES.map(({ version }) => version).join(', ')
  const has = offered === '' ? `no ${SOURCE_PACKAGE}` : offered
  return new ZenithError(
    'precondition_failed',
    `The Debian mirror of this machine has ${has}; this project builds Postgres ${versions}.`,
    { hint: sourceHint() },
  )
}

function unknownChecksum(path: string, sha256: string): ZenithError {
  const versions = POSTGRES_RELEASES.map(({ version }) => version).join(', ')
  return new ZenithError(
    'corrupt',
    `${path} is not the source of a Postgres that this project knows (${versions}): ` +
      `its sha256 is ${sha256}.`,
    { hint: `If you trust it and it is a 17.x release, set ${VOUCH} to that checksum.` },
  )
}

function sourceHint(): string {
  const [newest] = POSTGRES_RELEASES
  return `Set ZENITH_POSTGRES_SOURCE to postgresql-${newest?.version}.tar.bz2 or to an unpacked tree.`
}
