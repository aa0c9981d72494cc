/**
 * The unprivileged user that Postgres runs as. Postgres refuses to run as root, and redo should
 * have no rights at all, so a root process (a container) starts them as the system user `zenith`
 * (or the one named by `ZENITH_SYSTEM_USER`), which is made on first use. For everybody else
 * Postgres simply runs as the caller.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { ZenithError } from './errors.ts'

export interface SystemUser {
  readonly uid: number
  readonly gid: number
}

/** Folders for data whose own place the system user cannot reach: see `unprivilegedDir`. */
const RELOCATED_ROOT = '/var/lib/zenith'
/** An entry younger than this may be one that another process is just making. */
const SWEEP_AGE_MS = 3_600_000

let cached: SystemUser | undefined

/** Name of the system user that Postgres runs as when we are root. */
export function systemUserName(): string {
  return process.env['ZENITH_SYSTEM_USER'] || 'zenith'
}

/**
 * Who Postgres must run as: null for the caller itself (not root), else uid and gid to give to
 * `spawn`. Makes the user if the machine has none. Throws `precondition_failed` if that fails.
 */
export function runAs(): SystemUser | null {
  if (process.getuid?.() !== 0) return null
  cached ??= lookUpUser(systemUserName()) ?? makeUser(systemUserName())
  return cached
}

/** Gives a file or a whole tree to the user of `runAs()`; does nothing when not root. */
export function giveTo(path: string): void {
  const user = runAs()
  if (user !== null) chownTree(path, user)
}

/**
 * Makes a folder that the user of `runAs()` owns and can enter, and returns its real path.
 *
 * As root, an installation may lie where the system user cannot go (/root has mode 0700). Opening
 * up the parents would be wrong, so the real folder then lies below /var/lib/zenith and `path`
 * becomes a symlink to it. Remove with `removeUnprivilegedDir`; a folder whose link has gone (the
 * user deleted the installation) is swept when the next one is made.
 */
export function unprivilegedDir(path: string, options: { mode?: number } = {}): string {
  const mode = options.mode ?? 0o700
  const wanted = resolve(path)
  const user = runAs()
  if (user === null) {
    // The copy of an installation of root: what the link points to belongs to the original.
    if (linkTarget(wanted)?.startsWith(`${RELOCATED_ROOT}/`)) unlinkSync(wanted)
    mkdirSync(wanted, { recursive: true, mode })
    return realpathSync(wanted)
  }
  mkdirSync(dirname(wanted), { recursive: true })
  if (canTraverse(realpathSync(dirname(wanted)), user)) {
    mkdirSync(wanted, { recursive: true, mode })
    chownSync(wanted, user.uid, user.gid)
    return realpathSync(wanted)
  }
  return relocated(wanted, mode, user)
}

/** Removes a folder made by `unprivilegedDir`, its real place included. Absent is fine. */
export function removeUnprivilegedDir(path: string): void {
  const wanted = resolve(path)
  const link = linkTarget(wanted)
  if (link === null) {
    rmSync(wanted, { recursive: true, force: true })
    return
  }
  unlinkSync(wanted)
  if (dirname(link) !== RELOCATED_ROOT || link !== relocatedPath(wanted)) return
  rmSync(link, { recursive: true, force: true })
  rmSync(originFile(link), { force: true })
}

function relocated(wanted: string, mode: number, user: SystemUser): string {
  const real = relocatedPath(wanted)
  const link = linkTarget(wanted)
  if (link === null && exists(wanted)) {
    throw new ZenithError(
      'precondition_failed',
      `The system user ${systemUserName()} cannot reach ${wanted}: a folder above it is closed.`,
      { hint: `Remove ${wanted} (computes keep nothing there) and start again.` },
    )
  }
  mkdirSync(RELOCATED_ROOT, { recursive: true, mode: 0o755 })
  if (link !== real) {
    sweepRelocated()
    // A copied installation brings the link of its original along: it gets a folder of its own.
    if (link !== null) unlinkSync(wanted)
    rmSync(real, { recursive: true, force: true })
    writeFileSync(originFile(real), `${wanted}\n`)
  }
  mkdirSync(real, { recursive: true, mode })
  chownSync(real, user.uid, user.gid)
  chmodSync(real, mode)
  if (link !== real) symlinkSync(real, wanted)
  return real
}

function relocatedPath(wanted: string): string {
  const hash = createHash('sha256').update(wanted).digest('hex').slice(0, 16)
  return join(RELOCATED_ROOT, `${hash}-${basename(wanted)}`)
}

function originFile(real: string): string {
  return `${real}.origin`
}

function sweepRelocated(): void {
  for (const name of readdirSync(RELOCATED_ROOT)) {
    if (!name.endsWith('.origin')) continue
    const file = join(RELOCATED_ROOT, name)
    const real = file.slice(0, -'.origin'.length)
    if (Date.now() - statSync(file).mtimeMs < SWEEP_AGE_MS) continue
    if (linkTarget(readFileSync(file, 'utf8').trim()) === real) continue
    rmSync(real, { recursive: true, force: true })
    rmSync(file, { force: true })
  }
}

function canTraverse(folder: string, user: SystemUser): boolean {
  for (let at = folder; ; at = dirname(at)) {
    const { mode, uid, gid } = statSync(at)
    const bit = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001
    if ((mode & bit) === 0) return false
    if (dirname(at) === at) return true
  }
}

function chownTree(path: string, user: SystemUser): void {
  const stat = lstatSync(path)
  if (stat.uid !== user.uid || stat.gid !== user.gid) lchownSync(path, user.uid, user.gid)
  if (!stat.isDirectory()) return
  for (const name of readdirSync(path)) chownTree(join(path, name), user)
}

function linkTarget(path: string): string | null {
  try {
    return readlinkSync(path)
  } catch {
    return null
  }
}

function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined
}

function lookUpUser(name: string): SystemUser | null {
  for (const line of readFileSync('/etc/passwd', 'utf8').split('\n')) {
    const [entry, , uid, gid] = line.split(':')
    if (entry === name) return { uid: Number(uid), gid: Number(gid) }
  }
  // Not a local user: ask the directory service, if there is one.
  const uid = spawnSync('id', ['-u', '--', name], { encoding: 'utf8' })
  const gid = spawnSync('id', ['-g', '--', name], { encoding: 'utf8' })
  if (uid.status !== 0 || gid.status !== 0) return null
  return { uid: Number(uid.stdout), gid: Number(gid.stdout) }
}

function makeUser(name: string): SystemUser {
  const options = '--system --user-group --no-create-home --home-dir /nonexistent'.split(' ')
  const shell = ['--shell', '/usr/sbin/nologin']
  const made = spawnSync('useradd', [...options, ...shell, name], { encoding: 'utf8' })
  // Another process may have made it in the meantime, so the look-up decides.
  const user = lookUpUser(name)
  if (user !== null) return user
  const reason = made.error?.message ?? made.stderr.trim()
  throw new ZenithError(
    'precondition_failed',
    `Postgres cannot run as root, and the system user "${name}" could not be made: ${reason}`,
    { hint: 'Make that user by hand, or name an existing one in ZENITH_SYSTEM_USER.' },
  )
}
