/**
 * The supervisor's HTTP port, open from the first moment on. Loading the HTTP stack takes as long as
 * all the rest of a start, so it is loaded after Postgres serves; requests that come before wait.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { HttpServer } from '#libs/http/server.ts'

// An import would evaluate all exports of the module, fetch and WebSocket among them: 30 ms.
const { createServer } = process.getBuiltinModule('node:http')

type Handler = (request: IncomingMessage, response: ServerResponse) => void

export class HttpDoor {
  readonly #server: Server
  #handler: Handler | null = null
  readonly #waiting: [IncomingMessage, ServerResponse][] = []

  private constructor() {
    this.#server = createServer((request, response) => {
      if (this.#handler === null) this.#waiting.push([request, response])
      else this.#handler(request, response)
    })
  }

  /** Listens on a free port. */
  static async listen(host: string): Promise<HttpDoor> {
    const door = new HttpDoor()
    await new Promise<void>((resolve, reject) => {
      door.#server.once('error', reject)
      door.#server.listen(0, host, resolve)
    })
    return door
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  /** Gives all requests, those that waited first, to the application. */
  async open(app: HttpServer): Promise<void> {
    await app.ready()
    const handler: Handler = (request, response) => app.routing(request, response)
    this.#handler = handler
    for (const [request, response] of this.#waiting.splice(0)) handler(request, response)
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}
