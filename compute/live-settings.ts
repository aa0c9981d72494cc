/**
 * Settings of a running compute: takes new ones from the control plane into the configuration
 * files, and brings what ALTER SYSTEM has set to the control plane, which keeps it.
 */
import { chownSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type {
  ComputePageservers,
  ComputeSettingsAnswer,
  ComputeSettingsChange,
} from '#libs/api/compute.ts'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import { assert, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { parseAutoConf, settingLine } from '#libs/pg/setting-text.ts'
import { connectPgWire, type PgClient } from '#libs/pgwire/client.ts'
import { runAs } from '#libs/system-user.ts'
import { autoConf, closedHbaConf, hbaConf, postgresConf } from './postgres-config.ts'

const RELOAD_POLL_MS = 10
const RELOAD_TIMEOUT_MS = 5_000
const STORE_TIMEOUT_MS = 20_000
const FILE_MODE = 0o600
/** So that a session gets in whatever the owner's settings do to sessions. */
const SESSION_OPTIONS = '-c session_preload_libraries= -c statement_timeout=10s'

export interface LiveSettingsOptions {
  spec: ComputeSpec
  log: Logger
  superuser: string
}

export class LiveSettings {
  readonly #options: LiveSettingsOptions
  #dataFolder: string | null = null
  #socketFolder: string | null = null
  /** The last request to store what ALTER SYSTEM did: they go one after the other. */
  #storing: Promise<void> = Promise.resolve()

  constructor(options: LiveSettingsOptions) {
    this.#options = options
  }

  /** Writes the configuration files of a new data folder. */
  install(dataFolder: string, socketFolder: string | null): void {
    const { spec } = this.#options
    this.#dataFolder = dataFolder
    this.#socketFolder = socketFolder
    this.#write('postgresql.conf', postgresConf({ spec }))
    this.#write('postgresql.auto.conf', autoConf(spec.systemSettings))
    this.#write('pg_hba.conf', hbaConf())
  }

  /** Nobody but the supervisor gets in, by the socket; without a socket this does nothing. */
  close(): void {
    if (this.#socketFolder !== null) this.#write('pg_hba.conf', closedHbaConf())
  }

  /** Lets everybody in again. */
  async open(): Promise<void> {
    this.#write('pg_hba.conf', hbaConf())
    const client = await this.connect()
    try {
      await reload(client)
    } finally {
      await client.close()
    }
  }

  /** Takes new settings, makes Postgres read them, and says which need a restart. */
  async change(change: ComputeSettingsChange): Promise<ComputeSettingsAnswer> {
    const { spec, log } = this.#options
    // What is rewritten later, for another reason, has them too.
    spec.settings = change.settings
    this.#write('postgresql.conf', postgresConf({ spec }))
    const client = await this.connect()
    try {
      for (const name of this.#overridden(change)) {
        // By SQL and not by writing the file: another ALTER SYSTEM may be at it.
        await client.query(`ALTER SYSTEM RESET ${name}`)
      }
      await reload(client)
      const pending = await client.query(
        'SELECT name FROM pg_settings WHERE pending_restart ORDER BY name',
      )
      const restartNeeded = pending.rows.map(([name]) => name ?? '')
      log.info({ touched: change.touched, restartNeeded }, 'settings changed')
      return { restartNeeded }
    } finally {
      await client.close()
    }
  }

  /**
   * The tenant has moved to other pageservers, one for each shard, of which there may be more than
   * before: whatever is written or asked from now on is right. A Postgres that runs has still to be told to read its settings.
   */
  setPageservers({ pageservers, stripeBlocks }: ComputePageservers): void {
    const { spec, log } = this.#options
    const [first] = pageservers
    assert(first !== undefined, 'a tenant has a pageserver')
    spec.pageserver = first
    if (stripeBlocks !== null) spec.shards = { stripeBlocks, pageservers: [...pageservers] }
    log.info({ pageservers, stripeBlocks }, 'the tenant has moved')
    if (this.#dataFolder !== null) this.#write('postgresql.conf', postgresConf({ spec }))
  }

  /** Another limit on the size of the cluster; as above. */
  setSizeLimit(bytes: number | null): void {
    const { spec, log } = this.#options
    spec.sizeLimitBytes = bytes
    log.info({ bytes }, 'told the limit on the size of the cluster')
    if (this.#dataFolder !== null) this.#write('postgresql.conf', postgresConf({ spec }))
  }

  /**
   * Resolves when the control plane has durably what ALTER SYSTEM has set up to now. The file is
   * read after the request, and requests go one by one, so the last one stored is complete.
   */
  store(): Promise<void> {
    const stored = this.#storing.then(() => this.#store())
    this.#storing = stored.catch(() => undefined)
    return stored
  }

  async #store(): Promise<void> {
    const { spec, log } = this.#options
    const { callControl } = await import('#libs/api/control-client.ts')
    const settings = parseAutoConf(readFileSync(this.#file('postgresql.auto.conf'), 'utf8'))
    await callControl(spec.controlPlaneUrl, 'storeSystemSettings', {
      params: { tenantId: spec.tenantId, name: spec.endpoint },
      body: { attempt: spec.attempt, settings },
      timeoutMs: STORE_TIMEOUT_MS,
    })
    log.info({ names: Object.keys(settings) }, 'settings of ALTER SYSTEM stored')
  }

  /** What ALTER SYSTEM had set of the names that were touched: the later word wins. */
  #overridden({ touched, resetAll }: ComputeSettingsChange): string[] {
    const text = readFileSync(this.#file('postgresql.auto.conf'), 'utf8')
    const names = Object.keys(parseAutoConf(text))
    return names.filter((name) => resetAll || touched.includes(name)).map(quotedName)
  }

  /** A superuser's session. */
  connect(database = 'postgres', options = SESSION_OPTIONS): Promise<PgClient> {
    const { spec, superuser } = this.#options
    return connectPgWire({
      ...(this.#socketFolder === null ? { host: spec.host } : { socketDir: this.#socketFolder }),
      port: spec.port,
      user: superuser,
      database,
      applicationName: 'zenith supervisor',
      options,
    })
  }

  #file(name: string): string {
    if (this.#dataFolder !== null) return join(this.#dataFolder, name)
    throw new ZenithError('unavailable', 'this compute has not been set up yet')
  }

  /** Postgres may be reading the file, so it is replaced as a whole. */
  #write(name: string, text: string): void {
    const file = this.#file(name)
    writeFileSync(`${file}.new`, text, { mode: FILE_MODE })
    const user = runAs()
    if (user !== null) chownSync(`${file}.new`, user.uid, user.gid)
    renameSync(`${file}.new`, file)
  }
}

/** Names from a file that Postgres wrote; dots separate the parts of an extension's setting. */
function quotedName(name: string): string {
  settingLine(name, '')
  return name
    .split('.')
    .map((part) => `"${part}"`)
    .join('.')
}

/** Returns once this session has read the files anew, which it does after the postmaster. */
async function reload(client: PgClient): Promise<void> {
  const loadedAt = async () => (await client.query('SELECT pg_conf_load_time()')).rows[0]?.[0]
  const before = await loadedAt()
  await client.query('SELECT pg_reload_conf()')
  const deadline = Date.now() + RELOAD_TIMEOUT_MS
  while ((await loadedAt()) === before) {
    if (Date.now() > deadline) {
      throw new ZenithError('timeout', 'Postgres has not read its new settings yet')
    }
    await sleep(RELOAD_POLL_MS)
  }
}
