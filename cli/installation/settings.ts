/**
 * `config.toml` of an installation: what `zenith init` decided. Everything else under the folder
 * belongs to the services; their own settings files are written anew from this one at each start.
 * The format number is checked first, so that an installation made by another Zenith is refused
 * with a sentence and never half-understood.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { parse, stringify } from 'smol-toml'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { S3Config } from '#libs/object-store/s3-config.ts'

/** Raised when files under `.zenith/` change so that an earlier Zenith would misread them. */
export const FORMAT = 1

/** The name of the first one; others are called ps2, ps3 and so on. */
export const FIRST_PAGESERVER = 'pageserver'

export interface SafekeeperSettings {
  readonly id: number
  readonly name: string
  pgPort: number
  httpPort: number
}

export interface PageserverSettings {
  readonly id: number
  readonly name: string
  pgPort: number
  httpPort: number
}

export interface Settings {
  /** False while `init` is at work; an interrupted `init` continues with the same settings. */
  initialized: boolean
  /** Used by commands that are given no `--tenant`. */
  defaultTenant: string
  readonly control: { httpPort: number }
  readonly pageservers: PageserverSettings[]
  readonly safekeepers: SafekeeperSettings[]
  /** The first port tried for a Postgres whose owner named none. */
  readonly firstEndpointPort: number
  /** Addresses of an etcd that keeps the control plane's records and carries discovery; empty: none. */
  readonly etcd: readonly string[]
  /** Safekeepers speak TLS alone. */
  readonly tls: boolean
  /** Bucket that keeps layers and WAL; null: a folder of the installation does. */
  readonly s3: S3Config | null
  /** Ports that the user asked for (`pageserver.pg`): never replaced by a free one. */
  readonly askedPorts: string[]
}

const HEADER = `# A Zenith installation, made by "zenith init". Edit it only while it is stopped.\n\n`

/** Throws `not_found` when there is no installation, `precondition_failed` for another format. */
export function readSettings(file: string, folder: string): Settings {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error
    throw new ZenithError('not_found', `There is no Zenith installation in ${folder}.`, {
      hint: 'Make one with "zenith init", or name another folder by --dir or ZENITH_DIR.',
    })
  }
  const table = parseTable(text, file)
  checkFormat(table['format'], folder)
  return settingsOf(new Table(table, file, ''))
}

/** Writes the whole file at once, so that a crash leaves the old one or the new one. */
export function writeSettings(file: string, settings: Settings): void {
  const text = stringify({
    format: FORMAT,
    initialized: settings.initialized,
    default_tenant: settings.defaultTenant,
    asked_ports: settings.askedPorts,
    ...(settings.etcd.length > 0 ? { etcd: settings.etcd } : {}),
    tls: settings.tls,
    ...(settings.s3 === null ? {} : { s3: settings.s3 }),
    endpoints: { first_port: settings.firstEndpointPort },
    control: { http_port: settings.control.httpPort },
    pageservers: settings.pageservers.map(({ id, name, pgPort, httpPort }) => ({
      id,
      name,
      pg_port: pgPort,
      http_port: httpPort,
    })),
    safekeepers: settings.safekeepers.map(({ id, name, pgPort, httpPort }) => ({
      id,
      name,
      pg_port: pgPort,
      http_port: httpPort,
    })),
  })
  writeFileSync(`${file}.new`, HEADER + text)
  renameSync(`${file}.new`, file)
}

function parseTable(text: string, file: string): Record<string, unknown> {
  try {
    return parse(text)
  } catch (error) {
    const [reason = ''] = errorMessage(error).split('\n')
    throw new ZenithError('corrupt', `${file} is not valid TOML: ${reason}`)
  }
}

function checkFormat(format: unknown, folder: string): void {
  if (format === FORMAT) return
  if (typeof format === 'number' && format > FORMAT) {
    throw new ZenithError(
      'precondition_failed',
      `${folder} was made by a newer Zenith (format ${format}; this one knows ${FORMAT}).`,
      { hint: 'Update Zenith, or name another folder by --dir.' },
    )
  }
  const older = typeof format === 'number' ? `format ${format}` : 'a format without a number'
  throw new ZenithError(
    'precondition_failed',
    `${folder} was made by an older Zenith (${older}; this one knows ${FORMAT}), so it is left alone.`,
    {
      hint:
        `Use it with the Zenith that made it, or move it away (mv ${folder} ${folder}.old) and ` +
        'make a new one with "zenith init".',
    },
  )
}

function settingsOf(table: Table): Settings {
  const control = table.table('control')
  return {
    initialized: table.boolean('initialized'),
    defaultTenant: table.string('default_tenant'),
    askedPorts: table.strings('asked_ports'),
    etcd: table.has('etcd') ? table.strings('etcd') : [],
    tls: table.has('tls') && table.boolean('tls'),
    s3: table.has('s3') ? s3ConfigOf(table.table('s3')) : null,
    firstEndpointPort: table.table('endpoints').port('first_port'),
    control: { httpPort: control.port('http_port') },
    pageservers: pageserversOf(table),
    safekeepers: table.tables('safekeepers').map((one) => ({
      id: one.integer('id'),
      name: one.string('name'),
      pgPort: one.port('pg_port'),
      httpPort: one.port('http_port'),
    })),
  }
}

function s3ConfigOf(table: Table): S3Config {
  const optional = ['prefix', 'endpoint', 'region', 'access_key_id', 'secret_access_key'] as const
  const given = optional.filter((key) => table.has(key)).map((key) => [key, table.string(key)])
  return {
    kind: 's3',
    bucket: table.string('bucket'),
    ...Object.fromEntries(given),
    ...(table.has('path_style') ? { path_style: table.boolean('path_style') } : {}),
  }
}

/** Installations of before there could be several have one, without a name. */
function pageserversOf(table: Table): PageserverSettings[] {
  const of = (one: Table, name: string): PageserverSettings => ({
    id: one.integer('id'),
    name,
    pgPort: one.port('pg_port'),
    httpPort: one.port('http_port'),
  })
  if (table.has('pageserver')) return [of(table.table('pageserver'), FIRST_PAGESERVER)]
  return table.tables('pageservers').map((one) => of(one, one.string('name')))
}

/** Reads keys of one type each; an error names the file and the key. */
class Table {
  readonly #values: Record<string, unknown>
  readonly #file: string
  readonly #path: string

  constructor(values: Record<string, unknown>, file: string, path: string) {
    this.#values = values
    this.#file = file
    this.#path = path
  }

  /** Keys that installations of before do not have. */
  has(key: string): boolean {
    return key in this.#values
  }

  boolean(key: string): boolean {
    const value = this.#values[key]
    return typeof value === 'boolean' ? value : this.#fail(key, 'true or false')
  }

  string(key: string): string {
    const value = this.#values[key]
    return typeof value === 'string' ? value : this.#fail(key, 'a string')
  }

  integer(key: string): number {
    const value = this.#values[key]
    return Number.isInteger(value) ? (value as number) : this.#fail(key, 'a whole number')
  }

  port(key: string): number {
    const value = this.integer(key)
    return value >= 1 && value <= 65535 ? value : this.#fail(key, 'a port (1 to 65535)')
  }

  strings(key: string): string[] {
    const value = this.#values[key]
    const right = Array.isArray(value) && value.every((one) => typeof one === 'string')
    return right ? (value as string[]) : this.#fail(key, 'a list of strings')
  }

  table(key: string): Table {
    const value = this.#values[key]
    if (!isTable(value)) return this.#fail(key, 'a table')
    return new Table(value, this.#file, `${this.#path}${key}.`)
  }

  tables(key: string): Table[] {
    const value = this.#values[key]
    if (!Array.isArray(value)) return this.#fail(key, 'a list of tables')
    return value.map((one: unknown, index) => {
      if (!isTable(one)) return this.#fail(key, 'a list of tables')
      return new Table(one, this.#file, `${this.#path}${key}.${index}.`)
    })
  }

  #fail(key: string, wanted: string): never {
    throw new ZenithError('corrupt', `${this.#file}: ${this.#path}${key} must be ${wanted}.`)
  }
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
