/**
 * One installation: a folder (`.zenith`) with its settings and the services that belong to it.
 *
 *   config.toml          settings, with the format's number
 *   auth/                keys, secrets and certificates (trust.ts)
 *   lock                 held by a command that changes something
 *   control/ pageserver/ pageservers/<name>/ safekeepers/<name>/
 *                        data of each service, its settings, log and pid
 *   object-store/        layers and WAL segments, as an object store would hold them
 *   pgdatadirs/tenants/<tenant>/<endpoint>/
 *                        a compute: spec, log, pid, and a data folder that may be deleted
 */
import { existsSync, mkdirSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import { type FileLock, lockFile } from '#libs/file-lock.ts'
import { HOST } from './ports.ts'
import { authorityFile } from './trust.ts'
import { FIRST_PAGESERVER, type Settings, readSettings, writeSettings } from './settings.ts'

const LOCK_TIMEOUT_MS = 120_000
const DEFAULT_DIR = '.zenith'

export type ServiceKind = 'control' | 'safekeeper' | 'pageserver'

export interface Service {
  readonly kind: ServiceKind
  /** Unique within the installation: `control`, `pageserver`, `sk1`. */
  readonly name: string
  /** For people: `safekeeper sk1`. */
  readonly title: string
  readonly dir: string
  readonly configFile: string
  readonly logFile: string
  readonly pidFile: string
  readonly httpPort: number
  /** Absent for the control plane, which speaks HTTP only. */
  readonly pgPort: number | null
  /** File with the authority of its certificate; null when its HTTP is plain. */
  readonly authority: string | null
}

export class Installation {
  /** Absolute. */
  readonly dir: string
  readonly settings: Settings

  private constructor(dir: string, settings: Settings) {
    this.dir = dir
    this.settings = settings
  }

  /** Opens what `init` has made; throws a sentence with the way out otherwise. */
  static open(dir: string): Installation {
    const settings = readSettings(configFile(dir), shownPath(dir))
    if (!settings.initialized) {
      throw new ZenithError(
        'precondition_failed',
        `"zenith init" in ${shownPath(dir)} was not finished.`,
        {
          hint: 'Run "zenith init" again: it goes on where it stopped.',
        },
      )
    }
    return new Installation(dir, settings)
  }

  /** For `init` alone: also opens an installation that is still being made; null if none is. */
  static openUnfinished(dir: string): Installation | null {
    if (!existsSync(configFile(dir))) return null
    return new Installation(dir, readSettings(configFile(dir), shownPath(dir)))
  }

  static create(dir: string, settings: Settings): Installation {
    const installation = new Installation(dir, settings)
    installation.save()
    return installation
  }

  save(): void {
    writeSettings(configFile(this.dir), this.settings)
  }

  get controlUrl(): string {
    return `http://${HOST}:${this.settings.control.httpPort}`
  }

  get objectStoreDir(): string {
    return join(this.dir, 'object-store')
  }

  get control(): Service {
    const { httpPort } = this.settings.control
    return this.#service('control', 'control', 'control plane', 'control', httpPort, null)
  }

  get safekeepers(): Service[] {
    return this.settings.safekeepers.map(({ name, httpPort, pgPort }) => {
      const dir = join('safekeepers', name)
      return this.#service('safekeeper', name, `safekeeper ${name}`, dir, httpPort, pgPort)
    })
  }

  get pageservers(): Service[] {
    return this.settings.pageservers.map(({ name, httpPort, pgPort }) => {
      const isFirst = name === FIRST_PAGESERVER
      const title = isFirst ? name : `pageserver ${name}`
      const dir = isFirst ? name : join('pageservers', name)
      return this.#service('pageserver', name, title, dir, httpPort, pgPort)
    })
  }

  /** In the order in which they start; they stop the other way round. */
  get services(): Service[] {
    return [this.control, ...this.safekeepers, ...this.pageservers]
  }

  get computesDir(): string {
    return join(this.dir, 'pgdatadirs', 'tenants')
  }

  endpointDir(tenantId: string, endpoint: string): string {
    return join(this.computesDir, tenantId, endpoint)
  }

  #service(
    kind: ServiceKind,
    name: string,
    title: string,
    folder: string,
    httpPort: number,
    pgPort: number | null,
  ): Service {
    const dir = join(this.dir, folder)
    return {
      kind,
      name,
      title,
      dir,
      configFile: join(dir, `${kind}.toml`),
      logFile: join(dir, `${kind}.log`),
      pidFile: join(dir, `${kind}.pid`),
      httpPort,
      pgPort,
      authority: kind === 'safekeeper' && this.settings.tls ? authorityFile(this.dir) : null,
    }
  }
}

/** The folder named by `--dir`, else by ZENITH_DIR, else `.zenith` in the current folder. */
export function installationDir(option: string | undefined): string {
  return resolve(option || process.env['ZENITH_DIR'] || DEFAULT_DIR)
}

/** Holds off other commands that would change the same installation; waits for one at work. */
export async function lockInstallation(dir: string, purpose: string): Promise<FileLock> {
  mkdirSync(dir, { recursive: true })
  return await lockFile(join(dir, 'lock'), {
    purpose: `"${purpose}"`,
    timeoutMs: LOCK_TIMEOUT_MS,
    onWait: (holder) => {
      const who = holder === '' ? 'Another command' : holder
      process.stderr.write(`${who} is at work in ${shownPath(dir)}: waiting for it.\n`)
    },
  })
}

export function configFile(dir: string): string {
  return join(dir, 'config.toml')
}

/** A path as people would write it: relative when it is below the current folder. */
export function shownPath(path: string): string {
  const short = relative(process.cwd(), path)
  return short === '' ? '.' : short.startsWith('..') ? path : short
}
