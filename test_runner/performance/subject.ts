/**
 * The two servers that are compared, behind one face: stock Postgres 17 with its own disk, and a
 * Zenith compute with pageserver and safekeepers. Same build, same settings, each with its default
 * durability; only one of them runs at a time.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Compute } from '../fixtures/compute.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import type { PgAddress } from './pgbench.ts'
import type { Subject } from './report.ts'

/** Settings of both. The buffer size is Postgres' default. */
const SETTINGS: Record<string, string> = {
  shared_buffers: '128MB',
  max_wal_size: '4GB',
  autovacuum: 'off',
}

export interface Server extends AsyncDisposable {
  readonly subject: Subject
  address(): PgAddress
  /** Process id of its Postgres. */
  postmaster(): number
  query(sql: string): Promise<Record<string, unknown>[]>
  /** Stops the database, forgets the operating system's page cache where allowed, starts again. */
  restartCold(): Promise<void>
}

/** Stock Postgres on a new data folder. */
export async function startVanilla(): Promise<Server> {
  const quoted = Object.entries(SETTINGS).map(([name, value]) => [name, `'${value}'`])
  const postgres = await VanillaPostgres.start({ settings: Object.fromEntries(quoted) })
  return {
    subject: 'vanilla',
    address: () => postgres.address(),
    postmaster: () => postmasterOf(postgres.dataDir),
    query: (sql) => postgres.query(sql),
    restartCold: async () => {
      await postgres.stop()
      dropPageCache()
      await postgres.start()
    },
    [Symbol.asyncDispose]: () => postgres[Symbol.asyncDispose](),
  }
}

export interface ZenithServer extends Server {
  readonly installation: Installation
  /** Process id of its compute's supervisor. */
  supervisor(): number
}

/** A new installation with its compute on `main`. */
export async function startZenith(safekeepers: number): Promise<ZenithServer> {
  const installation = await Installation.create({ safekeepers })
  const start = (): Promise<Compute> =>
    installation.startCompute('main', {
      settings: { ...SETTINGS, ...FILE_CACHE },
    })
  let compute = await start()
  return {
    subject: 'zenith',
    installation,
    address: () => compute.address(),
    postmaster: () => postmasterOf(compute.dataFolder),
    supervisor: () => compute.process.pid as number,
    query: (sql) => compute.query(sql),
    restartCold: async () => {
      await compute.stop()
      await installation.pageserver.stop('SIGTERM')
      dropPageCache()
      await installation.start()
      compute = await start()
    },
    [Symbol.asyncDispose]: () => installation[Symbol.asyncDispose](),
  }
}

/** The first line of the lock file. */
function postmasterOf(dataFolder: string): number {
  return Number(readFileSync(join(dataFolder, 'postmaster.pid'), 'utf8').split('\n')[0])
}

/** Empties the page cache when we may; otherwise "cold" means only that the servers' own caches are. */
export function dropPageCache(): boolean {
  try {
    writeFileSync('/proc/sys/vm/drop_caches', '3')
    return true
  } catch {
    return false
  }
}
