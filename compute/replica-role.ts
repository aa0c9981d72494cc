/**
 * The role of a hot standby: Postgres itself fetches WAL from a safekeeper and replays it. What is
 * left to do is to look how far it is, for the control plane and for people.
 */
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'
import { connectPgWire, type PgClient } from '#libs/pgwire/client.ts'
import type { PostgresAddress } from './proposer/postgres-stream.ts'
import type { Role } from './role.ts'

const LOOK_MS = 500
const SESSION_OPTIONS = '-c session_preload_libraries= -c statement_timeout=10s'
const LOOK = `SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), pg_get_wal_replay_pause_state(),
  (SELECT greatest(latest_end_lsn, written_lsn) FROM pg_stat_wal_receiver)`

export class ReplicaRole implements Role {
  readonly #log: Logger
  #replayedLsn: Lsn = 0
  #knownLsn: Lsn = 0
  #connected = false
  #client: PgClient | null = null
  #timer: NodeJS.Timeout | undefined
  #stopped = false
  #paused = false
  #onFenced: (reason: string) => void = () => {}
  #onPaused: () => void = () => {}

  constructor(log: Logger) {
    this.#log = log
  }

  get commitLsn(): Lsn {
    return this.#replayedLsn
  }

  get lagBytes(): number | null {
    return this.#connected ? Math.max(0, this.#knownLsn - this.#replayedLsn) : null
  }

  elect(): Promise<{ term: null; startLsn: null }> {
    return Promise.resolve({ term: null, startLsn: null })
  }

  stream(address: PostgresAddress & { startLsn: Lsn }): void {
    clearTimeout(this.#timer)
    this.#client?.destroy()
    this.#client = null
    this.#replayedLsn = Math.max(this.#replayedLsn, address.startLsn)
    const again = () => {
      if (this.#stopped) return
      this.#timer = setTimeout(() => void this.#look(address).finally(again), LOOK_MS)
    }
    void this.#look(address).finally(again)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#client?.destroy()
  }

  onFenced(listener: (reason: string) => void): void {
    this.#onFenced = listener
  }

  onPaused(listener: () => void): void {
    this.#onPaused = listener
  }

  async #look(address: PostgresAddress): Promise<void> {
    try {
      this.#client ??= await connect(address)
      const { rows } = await this.#client.query(LOOK)
      const [inRecovery, replayed, pause, known] = rows[0] ?? []
      // Whoever has shell access can do that; what is written then goes nowhere.
      if (inRecovery === 'f') return this.#onFenced('its Postgres was promoted, by other means')
      if (replayed) this.#replayedLsn = parseLsn(replayed)
      this.#connected = Boolean(known)
      if (known) this.#knownLsn = parseLsn(known)
      this.#tellPause(pause === 'paused')
    } catch (error) {
      this.#client?.destroy()
      this.#client = null
      this.#connected = false
      if (!this.#stopped) this.#log.debug({ reason: errorMessage(error) }, 'no look at the replay')
    }
  }

  #tellPause(paused: boolean): void {
    if (paused !== this.#paused) this.#log.warn({ paused }, 'replay was paused or resumed')
    this.#paused = paused
    if (paused) this.#onPaused()
  }
}

function connect(address: PostgresAddress): Promise<PgClient> {
  const { host, port, user } = address
  return connectPgWire({
    ...(host.startsWith('/') ? { socketDir: host } : { host }),
    port,
    user,
    database: 'postgres',
    applicationName: 'zenith supervisor',
    options: SESSION_OPTIONS,
  })
}
