/**
 * Connections that have not shown yet who they are. They are few: when one too many comes, the
 * oldest is cut off, since an honest client is done within milliseconds and the ones that hold
 * places are those that do nothing.
 */
import type { Socket } from 'node:net'

export class PendingConnections {
  readonly #limit: number
  readonly #sockets = new Set<Socket>()

  constructor(limit: number) {
    this.#limit = limit
  }

  add(socket: Socket): void {
    this.#sockets.add(socket)
    if (this.#sockets.size <= this.#limit) return
    const [oldest] = this.#sockets
    this.#sockets.delete(oldest as Socket)
    oldest?.destroy()
  }

  remove(socket: Socket): void {
    this.#sockets.delete(socket)
  }
}
