/**
 * HTTP API of the supervisor on loopback: `/status`, `/stop`, settings, health and metrics.
 *
 * By hand and not with the framework of the other services: loading that takes longer than all the
 * rest of a start, and commits pass through this process' one thread meanwhile.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import {
  type ComputePageservers,
  type ComputeSettingsChange,
  computePaths,
} from '#libs/api/compute.ts'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { problemOf } from '#libs/http/problem.ts'
import type { Logger } from '#libs/log.ts'
import type { Supervisor } from './supervisor.ts'

// An import would evaluate all exports of the module, fetch and WebSocket among them: 30 ms.
const { createServer } = process.getBuiltinModule('node:http')

const MAX_BODY_BYTES = 1024 * 1024

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
    const answer = await this.#answer(request).catch((error: unknown) => {
      const known = error instanceof ZenithError ? error : null
      if (known === null) this.#log.error({ err: error }, 'a request failed')
      return problem(known ?? new ZenithError('internal', errorMessage(error)))
    })
    response.writeHead(answer.status, {
      'content-type': answer.type,
      'content-length': Buffer.byteLength(answer.text),
    })
    response.end(answer.text)
  }

  async #answer(request: IncomingMessage): Promise<Answer> {
    const route = `${request.method} ${request.url}`
    const body = await bodyOf(request)
    switch (route) {
      case `GET ${computePaths.status.path}`:
        return json(200, this.#supervisor.status())
      case `POST ${computePaths.stop.path}`:
        this.#supervisor.stop()
        return json(200, this.#supervisor.status())
      case `POST ${computePaths.changeSettings.path}`: {
        const change = JSON.parse(body) as ComputeSettingsChange
        return json(200, await this.#supervisor.settings.change(change))
      }
      case `POST ${computePaths.setSafekeepers.path}`: {
        const { safekeepers } = JSON.parse(body) as { safekeepers: NodeInfo[] }
        this.#supervisor.setSafekeepers(safekeepers)
        return json(200, this.#supervisor.status())
      }
      case `POST ${computePaths.setPageservers.path}`: {
        this.#supervisor.setPageservers(JSON.parse(body) as ComputePageservers)
        return json(200, this.#supervisor.status())
      }
      case `POST ${computePaths.setSizeLimit.path}`: {
        const { bytes } = JSON.parse(body) as { bytes: number | null }
        this.#supervisor.setSizeLimit(bytes)
        return json(200, this.#supervisor.status())
      }
      case `POST ${computePaths.systemSettings.path}`:
        return this.#storeSystemSettings()
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

  /** Answers in plain text: the one who asks is a backend, which shows it to its user. */
  async #storeSystemSettings(): Promise<Answer> {
    try {
      await this.#supervisor.settings.store()
      return { status: 200, type: 'text/plain', text: '' }
    } catch (error) {
      const reason = errorMessage(error)
      this.#log.warn({ reason }, 'settings of ALTER SYSTEM were not stored')
      return { status: 503, type: 'text/plain', text: reason }
    }
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = []
  let size = 0
  for await (const part of request as AsyncIterable<Buffer>) {
    size += part.length
    if (size > MAX_BODY_BYTES) throw new ZenithError('invalid_argument', 'the request is too long')
    parts.push(part)
  }
  return Buffer.concat(parts).toString()
}

function json(status: number, value: unknown): Answer {
  return { status, type: 'application/json', text: JSON.stringify(value) }
}

function problem(error: ZenithError): Answer {
  const document = problemOf(error)
  return { ...json(document.status, document), type: 'application/problem+json' }
}
