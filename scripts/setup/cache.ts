/**
 * Where built Postgres versions are kept, shared by all work trees of a user:
 *
 *   sources/                          checked tarballs
 *   postgres-17.11-<key>/             Postgres with our patches
 *   postgres-17.11-<key>-<pgxn key>/  the same plus the modules of pgxn/ (hard links where equal)
 *   postgres-17.11-<key>-tests-2/     PostgreSQL's own tests for it
 *   build-<key>/, pgxn-build-<key>/   present only while a build is unfinished
 *   logs/                             one log per step
 */
import { existsSync, mkdirSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'

/** The cache of root, which others may read as well: a finished build there is used by everybody. */
const SYSTEM_CACHE = '/var/cache/zenith'

export class Cache {
  readonly root: string

  constructor(root: string = defaultRoot()) {
    this.root = resolve(root)
  }

  /** Makes the folders. Readable by all, since Postgres runs as another user than root. */
  prepare(): void {
    mkdirSync(this.logDir, { recursive: true, mode: 0o755 })
    mkdirSync(this.sourceDir, { recursive: true, mode: 0o755 })
  }

  get logDir(): string {
    return join(this.root, 'logs')
  }

  get sourceDir(): string {
    return join(this.root, 'sources')
  }

  get lockPath(): string {
    return join(this.root, 'lock')
  }

  path(name: string): string {
    return join(this.root, name)
  }

  log(step: string): string {
    return join(this.logDir, `${step}.log`)
  }

  /** The finished installation of that name, here or in the system's cache; null when not built. */
  findInstalled(name: string): string | null {
    return this.find(name, join('bin', 'postgres'))
  }

  /** A folder of that name which holds `file`, here or in the system's cache; else null. */
  find(name: string, file: string): string | null {
    const places = process.env['ZENITH_CACHE'] ? [this.root] : [this.root, SYSTEM_CACHE]
    for (const place of places) {
      const folder = join(place, name)
      if (existsSync(join(folder, file))) return folder
    }
    return null
  }
}

function defaultRoot(): string {
  const named = process.env['ZENITH_CACHE']
  if (named) return named
  if (process.getuid?.() === 0) return SYSTEM_CACHE
  return join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'zenith')
}
