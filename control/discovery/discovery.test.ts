/** The hub over real HTTP: the driver on one side, the control plane's routes on the other. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import type { Scope } from '#libs/auth/claims.ts'
import { KeyFolder, keyFolders, makeKey } from '#libs/auth/key-folder.ts'
import { TokenSigner, TokenVerifier } from '#libs/auth/token.ts'
import { createHttp, type HttpServer } from '#libs/http/server.ts'
import { EmbeddedDiscovery } from '#libs/discovery/embedded-discovery.ts'
import { DiscoveryHub } from '#libs/discovery/hub.ts'
import {
  type DiscoveryFrame,
  type DiscoveryMessage,
  encodeFrame,
  type TimelineKey,
} from '#libs/discovery/message.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { createLogger } from '#libs/log.ts'
import { createMetrics } from '#libs/metrics.ts'
import { discoveryMessage } from '../../test_runner/fixtures/discovery-message.ts'
import { addDiscoveryRoutes, guardDiscovery } from './http.ts'

/** Rather than a second, on a busy machine. */
const SOON = { timeout: 60_000 }

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

const log = createLogger('test')
log.level = 'fatal'
const key = { tenantId: newTenantId(), timelineId: newTimelineId() }

async function startHub(port = 0): Promise<{ app: HttpServer; url: string; hub: DiscoveryHub }> {
  const app = await createHttp({ service: 'control', log, metrics: createMetrics('test') })
  const hub = new DiscoveryHub()
  addDiscoveryRoutes(app, hub)
  const url = await app.listen({ host: '127.0.0.1', port })
  closers.push(() => app.close())
  return { app, url, hub }
}

function connect(url: string): { discovery: EmbeddedDiscovery; heard: DiscoveryFrame[] } {
  const discovery = new EmbeddedDiscovery({ url, log })
  closers.push(() => discovery.close())
  const heard: DiscoveryFrame[] = []
  discovery.subscribe(null, (frame) => heard.push(frame))
  return { discovery, heard }
}

function message(nodeId: number, flushLsn: number): DiscoveryMessage {
  const others = { standbyHorizonLsn: 16, computeConnected: true }
  return discoveryMessage(key, nodeId, flushLsn, others)
}

test('news and requests of one process reach all, the sender among them', async () => {
  const { url } = await startHub()
  const [a, b] = [connect(url), connect(url)]
  await vi.waitFor(() => expect(a.discovery.connected && b.discovery.connected).toBe(true), SOON)
  a.discovery.publish([message(1, 100), message(2, 200)])
  b.discovery.request(key)
  const all = [
    { kind: 'message', ...message(1, 100) },
    { kind: 'message', ...message(2, 200) },
    { kind: 'request', ...key },
  ]
  for (const { heard } of [a, b]) {
    await vi.waitFor(() => expect(heard).toHaveLength(3), SOON)
    expect(heard).toEqual(expect.arrayContaining(all))
  }
  const late = connect(url)
  await vi.waitFor(() => expect(late.heard).toHaveLength(2), SOON)
})

test('a thousand messages at once arrive; of one timeline and node at least the last does', async () => {
  const { url } = await startHub()
  const { discovery, heard } = connect(url)
  await vi.waitFor(() => expect(discovery.connected).toBe(true), SOON)
  for (let flush = 1; flush <= 1000; flush += 1) discovery.publish([message(1, flush)])
  discovery.publish(Array.from({ length: 1500 }, (_, id) => message(id + 2, 8)))
  await vi.waitFor(() => expect(new Set(nodes(heard)).size).toBe(1501), SOON)
  const ofFirst = heard.filter((frame) => frame.kind === 'message' && frame.nodeId === 1)
  expect(ofFirst.at(-1)).toMatchObject({ flushLsn: 1000 })
})

const nodes = (frames: DiscoveryFrame[]) =>
  frames.map((frame) => (frame.kind === 'message' ? frame.nodeId : 0))

test('the control plane goes and comes back: so does discovery, by itself', async () => {
  const first = await startHub()
  const { port } = new URL(first.url)
  const { discovery, heard } = connect(first.url)
  await vi.waitFor(() => expect(discovery.connected).toBe(true), SOON)
  await first.app.close()
  await vi.waitFor(() => expect(discovery.connected).toBe(false), SOON)
  discovery.publish([message(1, 100)])
  await startHub(Number(port))
  await vi.waitFor(() => expect(discovery.connected).toBe(true), { timeout: 10_000 })
  discovery.publish([message(1, 300)])
  await vi.waitFor(() => expect(heard.at(-1)).toMatchObject({ flushLsn: 300 }), { timeout: 10_000 })
})

test('the hub takes whole frames only, and names of timelines that are some', async () => {
  const { url, hub } = await startHub()
  const post = (body: Buffer) =>
    fetch(`${url}/v1/discovery/publish`, {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream' },
      body,
    })
  const frame = encodeFrame({ kind: 'message', ...message(1, 100) })
  expect((await post(frame.subarray(0, -1))).status).toBe(400)
  expect((await post(Buffer.concat([frame, Buffer.from('junk')]))).status).toBe(400)
  expect((await post(Buffer.alloc(2 << 20))).status).toBe(400)
  expect((await post(frame)).status).toBe(204)
  expect((await fetch(`${url}/v1/discovery/subscribe?tenant=../x&timeline=y`)).status).toBe(400)
  expect((await fetch(`${url}/v1/discovery/subscribe?tenant=${key.tenantId}`)).status).toBe(400)
  expect(hub.subscribers).toBe(0)
})

test('a subscriber that hangs costs the others nothing', async () => {
  const { url, hub } = await startHub()
  // Opens the stream and never reads it.
  const stuck = await fetch(`${url}/v1/discovery/subscribe`)
  closers.push(async () => await stuck.body?.cancel())
  const { discovery, heard } = connect(url)
  await vi.waitFor(() => expect(discovery.connected).toBe(true), SOON)
  const frames = Array.from({ length: 1000 }, (_, id) => ({
    kind: 'message' as const,
    ...message(id + 1, 8),
    host: 'h'.repeat(200),
  }))
  for (let round = 0; round < 200 && hub.dropped === 0; round += 1) {
    hub.publish(frames, performance.now())
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  expect(hub.dropped).toBeGreaterThan(0)
  const before = heard.length
  hub.publish([{ kind: 'message', ...message(7, 4711) }], performance.now())
  await vi.waitFor(() => expect(heard.at(-1)).toMatchObject({ flushLsn: 4711 }), SOON)
  expect(before).toBeGreaterThan(10_000)
})

test('with tokens: safekeepers publish, page servers listen, everybody else does neither', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-discovery-keys-'))
  closers.push(async () => rmSync(dir, { recursive: true, force: true }))
  makeKey(dir, new Date())
  const { publicDir, privateDir } = keyFolders(dir)
  const folders = [
    new KeyFolder(publicDir, 'public', log),
    new KeyFolder(privateDir, 'private', log),
  ]
  closers.push(async () => folders.forEach((folder) => folder.close()))
  const verifier = new TokenVerifier(folders[0] as KeyFolder, 'here')
  const signer = new TokenSigner(folders[1] as KeyFolder, 'here')
  const sign = (scope: Scope, target: TimelineKey | null = null) =>
    signer.sign({ scope, subject: 'test', target, lifetimeMs: 60_000 })

  const app = await createHttp({ service: 'control', log, metrics: createMetrics('test') })
  app.get('/open', () => ({}))
  guardDiscovery(app, (token) => verifier.verify(token), log)
  addDiscoveryRoutes(app, new DiscoveryHub())
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  closers.push(() => app.close())

  const status = async (path: string, token: string | null, body?: Buffer) => {
    const abort = new AbortController()
    const response = await fetch(`${url}${path}`, {
      method: body === undefined ? 'GET' : 'POST',
      signal: abort.signal,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/octet-stream' }),
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      },
      ...(body === undefined ? {} : { body }),
    })
    abort.abort()
    return response.status
  }
  const frame = encodeFrame({ kind: 'message', ...message(1, 100) })
  const publish = (token: string | null) => status('/v1/discovery/publish', token, frame)
  const listen = (token: string | null) => status('/v1/discovery/subscribe', token)
  const [peer, reader] = [await sign('sk-peer'), await sign('wal-read')]
  expect([await publish(peer), await listen(peer)]).toEqual([204, 200])
  expect([await publish(reader), await listen(reader)]).toEqual([403, 200])
  for (const token of [await sign('compute-write', key), await sign('wal-read', key)]) {
    expect([await publish(token), await listen(token)]).toEqual([403, 403])
  }
  for (const token of [null, 'nonsense']) {
    expect([await publish(token), await listen(token)]).toEqual([401, 401])
  }
  expect(await status('/open', null)).toBe(200)

  const heard: DiscoveryFrame[] = []
  const discovery = new EmbeddedDiscovery({ url, log, token: async () => peer })
  closers.push(() => discovery.close())
  discovery.subscribe(null, (one) => heard.push(one))
  await vi.waitFor(() => expect(heard).toHaveLength(1), SOON)
  discovery.publish([message(2, 200)])
  await vi.waitFor(() => expect(heard.at(-1)).toMatchObject({ nodeId: 2 }), SOON)
})
