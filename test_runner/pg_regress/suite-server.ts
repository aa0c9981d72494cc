/** The server that a suite runs against: a compute of an own Zenith, or stock Postgres. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Compute } from '../fixtures/compute.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

export interface SuiteServerOptions {
  /** Default as `Installation` has it. */
  safekeepers?: number
  /** Without it the server's own default. */
  sharedBuffers?: string
  /** The compute's page cache in a local file, as users have it; default off. */
  fileCache?: boolean
  /** More settings of the server. */
  settings?: Readonly<Record<string, string>>
}

export interface SuiteServer extends AsyncDisposable {
  /** The Zenith that is under test, with its newest compute; null for stock Postgres. */
  readonly zenith: { readonly installation: Installation; readonly compute: Compute } | null
  address(): { host: string; port: number; user: string }
  /** Starts it anew with more settings than usual. */
  restart(settings: Readonly<Record<string, string>>): Promise<void>
  query(sql: string, database?: string): Promise<Record<string, unknown>[]>
  /** Ends of the logs, for the report of a failure. */
  logs(): string
}

/** What the documentation of the suites asks for, on both kinds of servers. */
const COMMON_SETTINGS = { max_prepared_transactions: '64', log_checkpoints: 'off' }

export async function startZenith(options: SuiteServerOptions): Promise<SuiteServer> {
  const installation = await Installation.create(
    options.safekeepers === undefined ? {} : { safekeepers: options.safekeepers },
  )
  const own = {
    ...COMMON_SETTINGS,
    ...buffers(options),
    ...(options.fileCache === true ? FILE_CACHE : {}),
    ...options.settings,
  }
  try {
    let compute = await installation.startCompute('main', { settings: own })
    return {
      get zenith() {
        return { installation, compute }
      },
      address: () => compute.address(),
      restart: async (settings) => {
        const code = await compute.stop()
        if (code !== 0) throw new Error(`the compute ended with ${code}\n${installation.logs()}`)
        compute = await installation.startCompute('main', {
          settings: { ...own, ...withSlotOfQuorum(settings) },
        })
      },
      query: (sql, database) => compute.query(sql, database),
      logs: () => installation.logs(),
      [Symbol.asyncDispose]: () => installation[Symbol.asyncDispose](),
    }
  } catch (error) {
    await installation[Symbol.asyncDispose]()
    throw error
  }
}

export async function startVanilla(options: SuiteServerOptions): Promise<SuiteServer> {
  passOnAddress()
  const server = await VanillaPostgres.create({ settings: { include_if_exists: "'suite.conf'" } })
  const write = (settings: Readonly<Record<string, string>>): void => {
    const all = {
      timezone: 'UTC',
      ...COMMON_SETTINGS,
      ...buffers(options),
      ...options.settings,
      ...settings,
    }
    const lines = Object.entries(all).map(([name, value]) => `${name} = '${value}'\n`)
    writeFileSync(join(server.dataDir, 'suite.conf'), lines.join(''))
  }
  try {
    write({})
    await server.start()
  } catch (error) {
    await server[Symbol.asyncDispose]()
    throw error
  }
  return {
    zenith: null,
    address: () => server.address(),
    restart: async (settings) => {
      await server.stop()
      write(settings)
      await server.start()
    },
    query: (sql, database) => server.query(sql, database),
    logs: () => server.logTail(),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

/** One replication slot of a compute is taken: WAL goes to the safekeepers through it. */
function withSlotOfQuorum(settings: Readonly<Record<string, string>>): Record<string, string> {
  const { max_replication_slots: slots } = settings
  return slots === undefined
    ? settings
    : { ...settings, max_replication_slots: `${Number(slots) + 1}` }
}

function buffers({ sharedBuffers }: SuiteServerOptions): Record<string, string> {
  return sharedBuffers === undefined ? {} : { shared_buffers: sharedBuffers }
}

/**
 * Tests of dblink and postgres_fdw connect from within the server without naming host and user. A
 * server that pg_regress starts itself inherits these; a compute sets its own.
 */
function passOnAddress(): void {
  process.env['PGHOST'] = '127.0.0.1'
  process.env['PGUSER'] = 'zenith_admin'
}
