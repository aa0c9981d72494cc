/**
 * The proposer as the one synchronous standby of its own Postgres: takes WAL from the stock
 * walsender and reports what a quorum of safekeepers has as flushed, which releases the commits that
 * wait (SyncRepWaitForLSN). A broken connection is made again and goes on where it was; commits wait
 * meanwhile.
 */
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { Logger } from '#libs/log.ts'
import { connectPgWire, type PgClient } from '#libs/pgwire/client.ts'
import { NO_XMINS, sameXmins, type StandbyXmins } from '#libs/protocol/standby-xmins.ts'
import {
  decodeWalStreamMessage,
  encodeHotStandbyFeedback,
  encodeStandbyStatus,
  postgresTimeUs,
} from '#libs/protocol/wal-stream.ts'

/** Name of the slot and of the standby in `synchronous_standby_names`. */
const STANDBY_NAME = 'walproposer'
const RETRY_MS = 100
/** A sign of life, also for those who look at pg_stat_replication. */
const STATUS_MS = 5_000
/** A walsender that is to end asks again as soon as it has an answer, while WAL waits for a quorum. */
const ANSWER_PAUSE_MS = 50

export interface PostgresAddress {
  /** A host name, or the folder of a Unix socket. */
  host: string
  port: number
  user: string
}

export interface PostgresStreamOptions {
  address: PostgresAddress
  /** Where the next byte is wanted. */
  nextLsn: () => Lsn
  /** What to report: quorum-durable WAL, and what the page server has durably. */
  positions: () => { commitLsn: Lsn; appliedLsn: Lsn }
  /** What hot standbys need of dead rows. */
  standbyXmins: () => StandbyXmins
  /** Takes WAL that starts at `nextLsn()`; valid during the call only. */
  onWal: (wal: Buffer) => void
  log: Logger
}

export class PostgresStream {
  readonly #options: PostgresStreamOptions
  #client: PgClient | null = null
  #stopped = false
  #retry: NodeJS.Timeout | undefined
  readonly #statusTimer: NodeJS.Timeout
  #failures = 0
  #toldXmins: StandbyXmins = NO_XMINS
  /** When Postgres last got what it had asked for, in monotonic milliseconds. */
  #answeredAtMs = Number.NEGATIVE_INFINITY
  #answer: NodeJS.Timeout | null = null

  constructor(options: PostgresStreamOptions) {
    this.#options = options
    this.#statusTimer = setInterval(() => {
      this.report()
      this.reportXmins()
    }, STATUS_MS)
    this.#connect()
  }

  get isConnected(): boolean {
    return this.#client !== null
  }

  /** Tells Postgres the current positions; call when they moved. */
  report(): void {
    const client = this.#client
    if (client === null) return
    const { commitLsn, appliedLsn } = this.#options.positions()
    client.sendCopyData(
      encodeStandbyStatus({
        writeLsn: commitLsn,
        flushLsn: commitLsn,
        applyLsn: appliedLsn,
        replyRequested: false,
        sentAtUs: postgresTimeUs(Date.now()),
      }),
    )
  }

  /** Tells Postgres what standbys need, if that has changed: its vacuum leaves that alone. */
  reportXmins(): void {
    const xmins = this.#options.standbyXmins()
    if (this.#client === null || sameXmins(xmins, this.#toldXmins)) return
    this.#toldXmins = xmins
    this.#client.sendCopyData(encodeHotStandbyFeedback(xmins, postgresTimeUs(Date.now())))
  }

  pause(): void {
    this.#client?.pause()
  }

  resume(): void {
    this.#client?.resume()
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#retry)
    clearTimeout(this.#answer ?? undefined)
    clearInterval(this.#statusTimer)
    this.#client?.destroy()
    this.#client = null
  }

  #connect(): void {
    this.#open().catch((error: unknown) => this.#lost(error as Error))
  }

  async #open(): Promise<void> {
    const { address } = this.#options
    const client = await connectPgWire({
      ...(address.host.startsWith('/') ? { socketDir: address.host } : { host: address.host }),
      port: address.port,
      user: address.user,
      applicationName: STANDBY_NAME,
      // While WAL waits for a quorum nothing is read from Postgres, for as long as it takes.
      options: '-c wal_sender_timeout=0',
      replication: true,
    })
    if (this.#stopped) {
      client.destroy()
      return
    }
    try {
      await this.#start(client)
    } catch (error) {
      client.destroy()
      throw error
    }
  }

  async #start(client: PgClient): Promise<void> {
    await this.#ensureSlot(client)
    const lsn = formatLsn(this.#options.nextLsn())
    const early: { end: Error | null } = { end: null }
    await client.startCopyBoth(
      `START_REPLICATION SLOT ${STANDBY_NAME} PHYSICAL ${lsn}`,
      (payload) => this.#receive(client, payload),
      (error) => {
        const reason = error ?? new ZenithError('unavailable', 'Postgres ended the stream')
        if (this.#client === client) {
          this.#client = null
          client.destroy()
          this.#lost(reason)
        } else early.end = reason
      },
    )
    if (early.end !== null) throw early.end
    if (this.#stopped) {
      client.destroy()
      return
    }
    this.#client = client
    this.#failures = 0
    this.#options.log.info({ lsn }, 'streaming from Postgres')
    this.report()
  }

  /** The slot keeps WAL that a quorum does not have yet from being removed. */
  async #ensureSlot(client: PgClient): Promise<void> {
    try {
      await client.query(`CREATE_REPLICATION_SLOT ${STANDBY_NAME} PHYSICAL RESERVE_WAL`)
    } catch (error) {
      if (!errorMessage(error).includes('42710')) throw error
    }
  }

  #receive(client: PgClient, payload: Buffer): void {
    const message = decodeWalStreamMessage(payload)
    if (message.kind === 'keepalive') {
      if (message.replyRequested) this.#answerSoon()
      return
    }
    const expected = this.#options.nextLsn()
    if (message.startLsn !== expected) {
      const got = formatLsn(message.startLsn)
      client.fail(
        new ZenithError('corrupt', `Postgres sent WAL at ${got}, not ${formatLsn(expected)}`),
      )
      return
    }
    this.#options.onWal(message.wal)
  }

  /** At once, unless it was asked just before; positions that move are reported anyhow. */
  #answerSoon(): void {
    if (this.#answer !== null) return
    const restMs = this.#answeredAtMs + ANSWER_PAUSE_MS - performance.now()
    if (restMs <= 0) return this.#answerNow()
    this.#answer = setTimeout(() => this.#answerNow(), restMs)
  }

  #answerNow(): void {
    this.#answer = null
    this.#answeredAtMs = performance.now()
    this.report()
  }

  #lost(error: Error): void {
    if (this.#stopped) return
    this.#failures += 1
    if (this.#failures === 1 || this.#failures % 100 === 0) {
      this.#options.log.warn({ reason: error.message }, 'no WAL stream from Postgres; trying again')
    }
    this.#retry = setTimeout(() => this.#connect(), RETRY_MS)
  }
}
