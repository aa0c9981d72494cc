/** The connections of one simulated safekeeper: from proposers over the network, and from its own process. */
import { FrameReader } from '#libs/pgwire/frame-reader.ts'
import {
  type AcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
  type MemberConfiguration,
  type ProposerMessage,
} from '#libs/protocol/wal-push.ts'
import type { AcceptorEvent } from '../../safekeeper/acceptor.ts'
import { copyDataFrame, MAX_FRAME_BYTES } from './frames.ts'
import type { Host } from './host.ts'
import { hideGenerations, ignoreGenerations, type Mutation, mutateReply } from './mutations.ts'
import type { End, Link } from './network.ts'

/** The other end of a connection. */
export interface Far {
  send(message: AcceptorMessage): void
  close(): void
}

interface Attached {
  readonly far: Far
  /** Who is at the other end, for the oracle. */
  readonly peer: string
}

export interface SimConnectionOptions {
  host: Host
  mutation: Mutation | null
  /** The members as the safekeeper knows them; null while it is down. */
  configuration: () => MemberConfiguration | null
  dispatch: (event: AcceptorEvent) => void
}

export class SimConnections {
  readonly #options: SimConnectionOptions
  readonly #attached = new Map<number, Attached>()
  #counter = 0
  /** With generations ignored: what the proposer of a connection goes by. */
  readonly #offered = new Map<number, MemberConfiguration>()

  constructor(options: SimConnectionOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#attached.size
  }

  get(id: number): Attached | undefined {
    return this.#attached.get(id)
  }

  /** The process has ended, and its connections with it. */
  clear(): void {
    this.#attached.clear()
  }

  /** A proposer connects; `open` makes the stream with this end. */
  accept(open: (end: End) => Link, peer: string): void {
    const { host, mutation, dispatch } = this.#options
    const id = ++this.#counter
    const reader = new FrameReader(MAX_FRAME_BYTES, (_tag, body) => {
      if (!this.#attached.has(id)) return
      this.#receive(id, decodeProposerMessage(body))
    })
    const { life } = host
    const link = open({
      host,
      receive: (chunk) => {
        if (host.life === life && this.#attached.has(id)) reader.push(chunk)
      },
      broken: () => {
        if (host.life !== life || !this.#attached.delete(id)) return
        dispatch({ kind: 'disconnected', connection: id })
      },
    })
    const far: Far = {
      send: (message) => {
        const offered = this.#offered.get(id)
        const told = offered ? hideGenerations(message, offered) : mutateReply(mutation, message)
        link.send(1, copyDataFrame(encodeAcceptorMessage(told)))
      },
      close: () => link.close(1),
    }
    this.#attached.set(id, { far, peer })
  }

  #receive(connection: number, message: ProposerMessage): void {
    const { mutation, dispatch } = this.#options
    const configuration = this.#options.configuration()
    if (mutation !== 'skip-generation-check' || configuration === null) {
      dispatch({ kind: 'message', connection, message })
      return
    }
    if (message.kind === 'greeting') this.#offered.set(connection, message.configuration)
    dispatch({ kind: 'message', connection, message: ignoreGenerations(message, configuration) })
  }

  /** A connection from this very process. Answers come later, never within a call. */
  acceptLocal(peer: string, far: Far): number {
    const { host } = this.#options
    const id = ++this.#counter
    this.#attached.set(id, {
      far: {
        send: (message) => host.after(0, () => far.send(message)),
        close: () => host.after(0, () => far.close()),
      },
      peer,
    })
    return id
  }

  closeLocal(id: number): void {
    if (this.#attached.delete(id)) this.#options.dispatch({ kind: 'disconnected', connection: id })
  }

  /** The safekeeper hangs up. */
  close(id: number): void {
    const closing = this.#attached.get(id)
    this.#attached.delete(id)
    closing?.far.close()
  }
}
