/** The HTTP side of every service: typed routes, health, metrics, OpenAPI, errors as problems. */
import swagger from '@fastify/swagger'
import { type TypeBoxTypeProvider, TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox'
import { type FastifyInstance, type FastifyBaseLogger, fastify } from 'fastify'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import { Type } from 'typebox'
import type { ServerTls } from '../auth/tls-files.ts'
import { ZenithError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import { buildLazySerializer } from './lazy-serializer.ts'
import { problemOf } from './problem.ts'

export type HttpServer = FastifyInstance<
  Server,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>

export interface HttpOptions {
  service: string
  log: Logger
  metrics: Metrics
  /** Says why the service is not ready yet, or null when it is; shown by `/healthz`. */
  notReady?: () => string | null
  /** Speak HTTPS alone, with this certificate. */
  tls?: ServerTls | null
}

/** A request that takes longer to arrive is given up; so does nobody hold a connection for nothing. */
const HEADERS_TIMEOUT_MS = 10_000
const REQUEST_TIMEOUT_MS = 60_000

/** Builds the server with the common routes; the caller adds its own and listens. */
export async function createHttp(options: HttpOptions): Promise<HttpServer> {
  const app = fastify({
    loggerInstance: options.log.child({ part: 'http' }, { level: 'warn' }) as FastifyBaseLogger,
    bodyLimit: 1024 * 1024,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
    serverFactory: (handler) => makeServer(handler, options.tls ?? null),
    schemaController: { compilersFactory: { buildSerializer: buildLazySerializer } },
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.setValidatorCompiler(TypeBoxValidatorCompiler)

  app.setErrorHandler(
    (error: Error & { validation?: unknown; statusCode?: number }, _request, reply) => {
      const known =
        error instanceof ZenithError
          ? error
          : error.validation || (error.statusCode ?? 500) < 500
            ? new ZenithError('invalid_argument', error.message)
            : new ZenithError('internal', error.message)
      if (known.code === 'internal' || known.code === 'corrupt') options.log.error({ err: error })
      const problem = problemOf(known)
      return reply.status(problem.status).type('application/problem+json').send(problem)
    },
  )
  app.setNotFoundHandler((request, reply) => {
    const error = new ZenithError(
      'not_found',
      `there is nothing at ${request.method} ${request.url}`,
    )
    return reply.status(404).type('application/problem+json').send(problemOf(error))
  })

  await app.register(swagger, {
    openapi: { info: { title: `Zenith ${options.service}`, version: '1' } },
  })
  app.get(
    '/healthz',
    { schema: { response: { 200: Health, 503: Health } } },
    async (_request, reply) => {
      const reason = options.notReady?.() ?? null
      const { service } = options
      const { pid } = process
      return reason === null
        ? { status: 'ok', service, pid }
        : reply.status(503).send({ status: reason, service, pid })
    },
  )
  app.get('/metrics', { schema: { hide: true } }, async (_request, reply) =>
    reply.type(options.metrics.contentType).send(await options.metrics.metrics()),
  )
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger())
  return app
}

function makeServer(
  handler: (request: IncomingMessage, reply: ServerResponse) => void,
  tls: ServerTls | null,
): Server {
  const limits = { headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS }
  if (tls === null) return createServer(limits, handler)
  const server = createSecureServer({ ...limits, ...tls.pair, minVersion: 'TLSv1.3' }, handler)
  tls.onChange((pair) => server.setSecureContext({ ...pair, minVersion: 'TLSv1.3' }))
  // The two have what fastify uses in common; its types know one of them at a time.
  return server as unknown as Server
}

const Health = Type.Object({
  status: Type.String(),
  service: Type.String(),
  /** By which whoever started it knows that it is the one, and not another that has its port. */
  pid: Type.Integer(),
})
