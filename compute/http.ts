/**
 * HTTP API of the supervisor on loopback: `/status`, `/stop`, health and metrics.
 *
 * By hand and not with the framework of the other services: loading that takes longer than all the
 * rest of a start, and commits pass through this process' one thread meanwhile.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { computePaths } from '#libs/api/compute.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { problemOf } from '#libs/http/problem.ts'
import type { Logger } from '#libs/log.ts'
import type { Supervisor } from './supervisor.ts'

// An import would evaluate all exports of the module, fetch and WebSocket among them: 30 ms.
const { createServer } = process.getBuiltinModule('node:http')

interface Answer {
  status: number
  type: string
  text: string
}

export class SupervisorHttp {
  readonly #supervisor: Supervisor
  readonly #log: Logger
  readonly #server: Server

  private constructor(supervisor: Supervisor, log: Logger) {
    this.#supervisor = supervisor
    this.#log = log
    this.#server = createServer((request, response) => void this.#serve(request, response))
  }

  /** Listens on a free port. */
  static async listen(supervisor: Supervisor, host: string, log: Logger): Promise<SupervisorHttp> {
    const http = new SupervisorHttp(supervisor, log)
    await new Promise<void>((resolve, reject) => {
      http.#server.once('error', reject)
      http.#server.listen(0, host, resolve)
    })
    return http
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.resume()
    const answer = await this.#answer(`${request.method} ${request.url}`).catch(
      (error: unknown) => {
        this.#log.error({ err: error }, 'a request failed')
        return problem(new ZenithError('internal', errorMessage(error)))
      },
    )
    response.writeHead(answer.status, {
      'content-type': answer.type,
      'content-length': Buffer.byteLength(answer.text),
    })
    response.end(answer.text)
  }

  async #answer(route: string): Promise<Answer> {
    switch (route) {
      case `GET ${computePaths.status.path}`:
        return json(200, this.#supervisor.status())
      case `POST ${computePaths.stop.path}`:
        this.#supervisor.stop()
        return json(200, this.#supervisor.status())
      case 'GET /healthz': {
        const { state } = this.#supervisor.status()
        const running = state === 'running'
        return json(running ? 200 : 503, { status: running ? 'ok' : state, service: 'compute' })
      }
      case 'GET /metrics': {
        const { metricsText } = await import('./metrics.ts')
        const { type, text } = await metricsText(this.#supervisor)
        return { status: 200, type, text }
      }
      default:
        return problem(new ZenithError('not_found', `there is nothing at ${route}`))
    }
  }
}

function json(status: number, value: unknown): Answer {
  return { status, type: 'application/json', text: JSON.stringify(value) }
}

function problem(error: ZenithError): Answer {
  const document = problemOf(error)
  return { ...json(document.status, document), type: 'application/problem+json' }
}
