/**
 * The hub of embedded discovery on the control plane's HTTP port. Bodies are frames in binary, so
 * these routes stand beside the table of JSON routes:
 *
 *   POST /v1/discovery/publish                            frames in; 204
 *   GET  /v1/discovery/subscribe[?tenant=ID&timeline=ID]  frames out, until one side ends it
 */
import type { ServerResponse } from 'node:http'
import { checkPermission, type Claims, type Scope } from '#libs/auth/claims.ts'
import { ZenithError } from '#libs/errors.ts'
import { DISCOVERY_PUBLISH_PATH, DISCOVERY_SUBSCRIBE_PATH } from '#libs/discovery/embedded-paths.ts'
import type { DiscoveryHub, HubSubscription } from '#libs/discovery/hub.ts'
import { FrameSplitter, type TimelineKey } from '#libs/discovery/message.ts'
import { guardRoutes } from '#libs/http/guard.ts'
import type { HttpServer } from '#libs/http/server.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'

/** A frame of a kind that nobody knows: shows that the stream lives. */
const HEARTBEAT = Buffer.from([0, 0, 0, 1, 0x6b])
const HEARTBEAT_MS = 1_000
/** Bytes that may wait in a socket before frames wait in the bounded queue instead. */
const SOCKET_BYTES = 256 * 1024

/** Who may do what, by a token that is not bound to one tenant. */
const SCOPES: ReadonlyMap<string, readonly Scope[]> = new Map([
  [DISCOVERY_PUBLISH_PATH, ['sk-peer', 'broker'] as const],
  [DISCOVERY_SUBSCRIBE_PATH, ['sk-peer', 'wal-read', 'broker'] as const],
])

interface SubscribeQuery {
  tenant?: string
  timeline?: string
}

/** Asks for a token on the routes of discovery, and on no other. Call before routes are added. */
export function guardDiscovery(
  app: HttpServer,
  verify: (token: string) => Promise<Claims>,
  log: Logger,
): void {
  guardRoutes(app, {
    log,
    verify,
    isOpen: (_method, path) => !SCOPES.has(path),
    permit: (claims, _method, path) => checkPermission(claims, SCOPES.get(path) ?? [], null),
  })
}

export function addDiscoveryRoutes(app: HttpServer, hub: DiscoveryHub): void {
  app.addContentTypeParser(
    'application/octet-stream',
    { parseAs: 'buffer' },
    (_request, body, done) => done(null, body),
  )
  app.post(DISCOVERY_PUBLISH_PATH, { schema: { hide: true } }, async (request, reply) => {
    const splitter = new FrameSplitter()
    if (!Buffer.isBuffer(request.body)) throw notFrames()
    const frames = splitter.push(request.body)
    if (!splitter.atBoundary) throw notFrames()
    hub.publish(frames, performance.now())
    return reply.status(204).send()
  })
  app.get(DISCOVERY_SUBSCRIBE_PATH, { schema: { hide: true } }, (request, reply) => {
    const timeline = timelineOf(request.query as SubscribeQuery)
    reply.hijack()
    stream(hub, timeline, reply.raw)
  })
}

function notFrames(): ZenithError {
  return new ZenithError('invalid_argument', 'the body is not a row of whole discovery frames')
}

function timelineOf({ tenant, timeline }: SubscribeQuery): TimelineKey | null {
  if (tenant === undefined && timeline === undefined) return null
  if (tenant === undefined || timeline === undefined) {
    throw new ZenithError('invalid_argument', 'a timeline is named by both tenant and timeline')
  }
  return { tenantId: parseTenantId(tenant), timelineId: parseTimelineId(timeline) }
}

function stream(hub: DiscoveryHub, timeline: TimelineKey | null, response: ServerResponse): void {
  let subscription: HubSubscription | null = null
  const send = () => {
    if (response.writableLength > SOCKET_BYTES) return
    const bytes = subscription?.take()
    if (bytes) response.write(bytes)
  }
  response.writeHead(200, { 'content-type': 'application/octet-stream' })
  response.write(HEARTBEAT)
  // Frames of one turn of the event loop go out together.
  subscription = hub.subscribe(timeline, () => setImmediate(send), performance.now())
  response.on('drain', send)
  const heartbeat = setInterval(() => {
    if (response.writableLength === 0) response.write(HEARTBEAT)
  }, HEARTBEAT_MS)
  response.on('close', () => {
    clearInterval(heartbeat)
    subscription?.close()
  })
}
