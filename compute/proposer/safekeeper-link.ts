/** One connection of the proposer to a safekeeper, from connecting to the end. */
import type { Member } from '#libs/protocol/wal-push.ts'
import {
  type AcceptorMessage,
  APPEND_HEADER_SIZE,
  decodeAcceptorMessage,
  encodeProposerMessage,
  type ProposerMessage,
  START_WAL_PUSH,
  writeAppendHeader,
} from '#libs/protocol/wal-push.ts'
import type { PgClient } from '#libs/pgwire/client.ts'
import { connectSafekeeper } from '#libs/pgwire/safekeeper-connection.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'
import type { AppendHeader } from './events.ts'

const CONNECT_TIMEOUT_MS = 5_000
/** Unsent bytes at which a safekeeper is given no more until it has taken them. */
const FULL_BYTES = 2 * 1024 * 1024

export interface LinkEvents {
  onConnected(): void
  onMessage(message: AcceptorMessage): void
  /** The connection takes more again. */
  onWritable(): void
  /** Called once; not after `close`. */
  onEnd(error: Error | undefined): void
}

export class SafekeeperLink {
  readonly member: Member
  readonly #events: LinkEvents
  /** Set once the connection is ready for messages. */
  #client: PgClient | null = null
  #opening: PgClient | null = null
  #closed = false
  #waitsForDrain = false

  constructor(member: Member, target: SessionTarget, events: LinkEvents) {
    this.member = member
    this.#events = events
    this.#open(target).catch((error: unknown) => this.#end(error as Error))
  }

  send(message: ProposerMessage): void {
    this.#client?.sendCopyData(encodeProposerMessage(message))
  }

  /** Whether another append may be sent now; when not, `onWritable` will be called. */
  get isWritable(): boolean {
    const client = this.#client
    if (client === null || this.#closed) return false
    if (client.socket.writableLength < FULL_BYTES) return true
    if (!this.#waitsForDrain) {
      this.#waitsForDrain = true
      client.socket.once('drain', () => {
        this.#waitsForDrain = false
        if (!this.#closed) this.#events.onWritable()
      })
    }
    return false
  }

  /** Sends an append whose WAL bytes are the pieces, from where they lie. */
  append(header: AppendHeader, pieces: Buffer[]): void {
    const bytes = Buffer.allocUnsafe(APPEND_HEADER_SIZE)
    writeAppendHeader(bytes, header)
    this.#client?.sendCopyData(bytes, ...pieces)
  }

  /** Gathers the writes of one turn into one system call. */
  cork(): void {
    this.#client?.socket.cork()
  }

  uncork(): void {
    this.#client?.socket.uncork()
  }

  /** Ends the connection after what was sent; no event follows. */
  close(): void {
    this.#closed = true
    this.#opening?.socket.destroySoon()
  }

  async #open(target: SessionTarget): Promise<void> {
    const client = await connectSafekeeper({
      host: this.member.host,
      pgPort: this.member.pgPort,
      target,
      applicationName: 'walproposer',
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
    })
    if (this.#closed) {
      client.destroy()
      return
    }
    this.#opening = client
    await client.startCopyBoth(
      START_WAL_PUSH,
      (payload) => {
        if (!this.#closed) this.#receive(payload)
      },
      (error) => this.#end(error),
    )
    if (this.#closed) {
      client.destroy()
      return
    }
    this.#client = client
    this.#events.onConnected()
  }

  #receive(payload: Buffer): void {
    let message: AcceptorMessage
    try {
      message = decodeAcceptorMessage(payload)
    } catch (error) {
      this.#end(error as Error)
      return
    }
    this.#events.onMessage(message)
  }

  #end(error: Error | undefined): void {
    if (this.#closed) return
    this.#closed = true
    this.#opening?.destroy()
    this.#events.onEnd(error)
  }
}
