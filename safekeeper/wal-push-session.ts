/** One connection of a proposer: frames in, acceptor messages out, with back-pressure by bytes. */
import { errorMessage } from '#libs/errors.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import type { PgSession } from '#libs/pgwire/session.ts'
import {
  type AcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
} from '#libs/protocol/wal-push.ts'
import type { SafekeeperMetrics } from './metrics.ts'
import { checkWalAction } from './permissions.ts'
import type { ProposerConnection, Timeline } from './timeline.ts'

/** Queued WAL at which reading from the socket stops, and at which it goes on. */
const BACKLOG_HIGH_BYTES = 16 * 1024 * 1024
const BACKLOG_LOW_BYTES = 8 * 1024 * 1024
/** Acks that a proposer has not read; a fraction of this is never seen from an honest one. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024
/** A proposer sends a heartbeat each second; one that is silent so long is gone. */
const SILENCE_MS = 30_000

let connectionCounter = 0

class PushConnection implements ProposerConnection {
  readonly id = ++connectionCounter
  readonly #session: PgSession
  readonly #log: Logger
  /** Set when this side ended the connection. */
  closing = false

  constructor(session: PgSession, log: Logger) {
    this.#session = session
    this.#log = log
  }

  send(message: AcceptorMessage): void {
    if (this.closing) return
    this.#session.sendCopyData(encodeAcceptorMessage(message))
    if (this.#session.socket.writableLength > MAX_UNREAD_BYTES) this.#abandon()
  }

  /** Closing in order would wait for it to read. */
  #abandon(): void {
    this.closing = true
    this.#log.warn({ connection: this.id }, 'a proposer does not read what it is sent')
    this.#session.socket.destroy()
  }

  close(reason: string): void {
    if (this.closing) return
    this.closing = true
    this.#log.info({ connection: this.id, reason }, 'closing the connection of a proposer')
    this.#session.sendError(new Error(reason))
    this.#session.socket.destroySoon()
  }
}

/**
 * The token must cover the timeline that the greeting names, whatever the connection named before,
 * and must be valid then. Later messages are not looked at: a push that was let in goes on, since
 * cutting it when its token ends would stop commits and protect nothing, as terms do the fencing.
 */
function checkGreeting(
  session: PgSession,
  greeting: { tenantId: string; timelineId: string },
): void {
  checkWalAction(session.claims, 'push', {
    tenantId: parseTenantId(greeting.tenantId),
    timelineId: parseTimelineId(greeting.timelineId),
  })
}

/** Serves START_WAL_PUSH until the connection ends. */
export async function runWalPush(
  session: PgSession,
  timeline: Timeline,
  options: { log: Logger; metrics: SafekeeperMetrics },
): Promise<void> {
  const leave = await timeline.occupy()
  const connection = new PushConnection(session, options.log)
  try {
    timeline.attach(connection)
  } catch (error) {
    leave()
    throw error
  }
  options.metrics.proposers.inc()
  session.socket.setTimeout(SILENCE_MS, () => connection.close('the proposer is silent'))
  try {
    await new Promise<void>((resolve) => {
      let unsubscribe: (() => void) | null = null
      const onFrame = (payload: Buffer) => {
        if (connection.closing) return
        try {
          const message = decodeProposerMessage(payload)
          if (message.kind === 'greeting') checkGreeting(session, message)
          timeline.receive(connection.id, message)
        } catch (error) {
          connection.close(errorMessage(error))
          return
        }
        if (unsubscribe !== null || timeline.backlogBytes < BACKLOG_HIGH_BYTES) return
        session.pause()
        unsubscribe = timeline.onDurable(() => {
          if (timeline.backlogBytes > BACKLOG_LOW_BYTES) return
          unsubscribe?.()
          unsubscribe = null
          session.resume()
        })
      }
      session.startCopyBoth(onFrame, () => {
        unsubscribe?.()
        resolve()
      })
    })
  } finally {
    options.metrics.proposers.dec()
    timeline.detach(connection)
    leave()
  }
}
