/** Reads a range of WAL from one safekeeper for another: START_REPLICATION pinned to a term. */
import { ZenithError } from '../errors.ts'
import { formatLsn, type Lsn } from '../lsn.ts'
import {
  decodeWalStreamMessage,
  encodeStandbyStatus,
  postgresTimeUs,
} from '../protocol/wal-stream.ts'
import type { Member } from '../protocol/wal-push.ts'
import type { PgClient } from './client.ts'
import { connectSafekeeper } from './safekeeper-connection.ts'
import type { SessionTarget } from './session-target.ts'

export interface DonorRead {
  donor: Member
  target: SessionTarget
  term: number
  beginLsn: Lsn
  endLsn: Lsn
  applicationName: string
  /** Takes the next piece; false ends the read. The buffer is valid during the call only. */
  onWal: (beginLsn: Lsn, wal: Buffer) => boolean
  /** Called once when the range is complete or the read broke. */
  onEnd: (error: Error | null) => void
}

export class DonorReader {
  readonly #read: DonorRead
  #client: PgClient | null = null
  #next: Lsn
  #ended = false

  constructor(read: DonorRead) {
    this.#read = read
    this.#next = read.beginLsn
    this.#open().catch((error: unknown) => this.#end(error as Error))
  }

  pause(): void {
    this.#client?.pause()
  }

  resume(): void {
    this.#client?.resume()
  }

  /** Stops without calling `onEnd`. */
  close(): void {
    this.#ended = true
    this.#client?.destroy()
  }

  async #open(): Promise<void> {
    const { donor, target, term, applicationName } = this.#read
    const client = await connectSafekeeper({
      host: donor.host,
      pgPort: donor.pgPort,
      target,
      applicationName,
    })
    if (this.#ended) {
      client.destroy()
      return
    }
    this.#client = client
    await client.startCopyBoth(
      `START_REPLICATION PHYSICAL ${formatLsn(this.#next)} (term='${term}')`,
      (payload) => this.#receive(payload),
      (error) => this.#end(error ?? new ZenithError('unavailable', 'the donor ended its stream')),
    )
  }

  #receive(payload: Buffer): void {
    if (this.#ended) return
    const message = decodeWalStreamMessage(payload)
    if (message.kind === 'keepalive') {
      if (message.replyRequested) this.#reply()
      return
    }
    if (message.startLsn !== this.#next) {
      const got = formatLsn(message.startLsn)
      this.#end(new ZenithError('corrupt', `the donor sent ${got}, not ${formatLsn(this.#next)}`))
      return
    }
    const wal = message.wal.subarray(0, this.#read.endLsn - this.#next)
    const beginLsn = this.#next
    this.#next += wal.length
    if (!this.#read.onWal(beginLsn, wal)) this.#end(null)
    else if (this.#next >= this.#read.endLsn) this.#end(null)
  }

  #reply(): void {
    const lsn = this.#next
    this.#client?.sendCopyData(
      encodeStandbyStatus({
        writeLsn: lsn,
        flushLsn: lsn,
        applyLsn: lsn,
        replyRequested: false,
        sentAtUs: postgresTimeUs(Date.now()),
      }),
    )
  }

  #end(error: Error | null): void {
    if (this.#ended) return
    this.#ended = true
    this.#client?.destroy()
    this.#read.onEnd(error)
  }
}
