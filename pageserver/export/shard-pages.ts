/**
 * Pages of a whole sharded timeline, for the backup that shard 0 puts together: its own it reads, those
 * of the others come as one stream from each (stripe-stream.ts). All streams are open, and all shards
 * hold the LSN, before the first page is asked for; from then on each sends as fast as its pages are
 * taken. So nothing is asked for page by page, and of no shard more than a few MiB wait here.
 */
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { connectPgWire, type PgClient } from '#libs/pgwire/client.ts'
import { type ShardIdentity, shardOfBlock, tenantShardId, wholeTenant } from '#libs/sharding.ts'
import {
  type BlockRun,
  type PageSource,
  type RelationFork,
  TimelinePages,
} from '../basebackup/relation-files.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { nameOf, pagesOfRun } from './stripe-stream.ts'

/** Of one shard: two runs of the longest kind. */
const WAITING_BYTES = 2 * 1024 * 1024
/** Longer than a shard waits for WAL before its first message. */
const SILENT_LIMIT_MS = 120_000

export interface ShardAddress {
  readonly host: string
  readonly port: number
}

export class ShardPages implements PageSource {
  readonly stripeBlocks: number
  readonly #identity: ShardIdentity
  readonly #own: TimelinePages
  /** By shard; null for shard 0. */
  readonly #streams: (StripeReader | null)[]

  private constructor(
    identity: ShardIdentity,
    own: TimelinePages,
    streams: (StripeReader | null)[],
  ) {
    this.stripeBlocks = identity.stripeBlocks
    this.#identity = identity
    this.#own = own
    this.#streams = streams
  }

  /**
   * Opens the streams of all other shards at the LSN, which each waits for and holds until its
   * stream ends. Throws what the first that cannot give it says.
   */
  static async open(
    timeline: Timeline,
    lsn: Lsn,
    addresses: readonly ShardAddress[],
  ): Promise<ShardPages> {
    const identity = timeline.shard?.identity
    assert(identity?.number === 0, 'shard 0 puts backups together')
    if (addresses.length !== identity.count) {
      throw new ZenithError(
        'invalid_argument',
        `${addresses.length} addresses of shards are given, and the tenant has ${identity.count}`,
        { hint: 'It may have been split just now. Try again.' },
      )
    }
    const streams = addresses.map((address, number) =>
      number === 0 ? null : new StripeReader(timeline, number, identity.count, address),
    )
    const pages = new ShardPages(identity, new TimelinePages(timeline, lsn), streams)
    try {
      const others = streams.filter((stream) => stream !== null)
      const begun = await Promise.allSettled(others.map((stream) => stream.begin(lsn)))
      const failed = begun.find((one) => one.status === 'rejected')
      if (failed !== undefined) throw failed.reason
    } catch (error) {
      pages.destroy()
      throw error
    }
    return pages
  }

  read(fork: RelationFork, run: BlockRun): Promise<Buffer> {
    const stream = this.#streams[shardOfBlock(fork.rel, run.firstBlock, this.#identity)]
    return stream ? stream.read(fork, run) : this.#own.read(fork, run)
  }

  /** Throws `corrupt` when a shard has blocks that were not asked for: then some are missing. */
  async checkAllTaken(): Promise<void> {
    for (const stream of this.#streams) await stream?.checkEnded()
  }

  destroy(): void {
    for (const stream of this.#streams) stream?.destroy()
  }
}

/** The stream of one shard. */
class StripeReader {
  readonly #name: string
  readonly #address: ShardAddress
  readonly #target: string
  #client: PgClient | null = null
  #messages: AsyncGenerator<Buffer> | null = null
  #next: IteratorResult<Buffer> | null = null
  #destroyed = false

  constructor(timeline: Timeline, number: number, count: number, address: ShardAddress) {
    const { tenantId, timelineId } = timeline
    this.#name = `shard ${number} of ${count}`
    this.#address = address
    this.#target = `${tenantShardId(wholeTenant(tenantId), number, count)} ${timelineId}`
  }

  /** Resolves when the first message is there: then the shard has the LSN and holds it. */
  async begin(lsn: Lsn): Promise<void> {
    const { host, port } = this.#address
    await this.#named(async () => {
      const client = await connectPgWire({ host, port, applicationName: 'zenith export' })
      this.#client = client
      if (this.#destroyed) client.destroy()
      const command = `stripes ${this.#target} ${formatLsn(lsn)}`
      this.#messages = client.copyOut(command, WAITING_BYTES)
      this.#next = await this.#arrival(client, this.#messages)
    })
  }

  read(fork: RelationFork, run: BlockRun): Promise<Buffer> {
    return this.#named(async () => {
      const message = await this.#take()
      if (message.done !== true) return pagesOfRun(message.value, fork, run)
      throw new ZenithError(
        'corrupt',
        `its stream ended before block ${run.firstBlock} of ${nameOf(fork)}`,
      )
    })
  }

  async checkEnded(): Promise<void> {
    await this.#named(async () => {
      if ((await this.#take()).done === true) return
      throw new ZenithError('corrupt', 'it has blocks of relations that shard 0 does not know')
    })
  }

  destroy(): void {
    this.#destroyed = true
    this.#client?.destroy()
  }

  async #take(): Promise<IteratorResult<Buffer>> {
    const first = this.#next
    this.#next = null
    assert(this.#client !== null && this.#messages !== null, 'the stream has begun')
    return first ?? (await this.#arrival(this.#client, this.#messages))
  }

  /** The next message. A shard that hangs must not keep us, and our hold, for ever. */
  async #arrival(
    client: PgClient,
    messages: AsyncGenerator<Buffer>,
  ): Promise<IteratorResult<Buffer>> {
    const timer = setTimeout(() => {
      client.fail(new ZenithError('timeout', `it sent nothing for ${SILENT_LIMIT_MS / 1000} s`))
    }, SILENT_LIMIT_MS)
    try {
      return await messages.next()
    } finally {
      clearTimeout(timer)
    }
  }

  /** Errors say which shard it is. */
  async #named<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      const known = error instanceof ZenithError ? error : null
      const { host, port } = this.#address
      throw new ZenithError(
        known?.code ?? 'unavailable',
        `${this.#name} at ${host}:${port}: ${errorMessage(error)}`,
        { cause: error, ...(known?.hint === undefined ? {} : { hint: known.hint }) },
      )
    }
  }
}
