/** The Postgres protocol's server with tokens and TLS: who gets in, and what strangers cost. */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import fc from 'fast-check'
import { pino } from 'pino'
import { afterEach, expect, test, vi } from 'vitest'
import { makeAuthority, makeCertificate, writeCertificate } from '../auth/certificates.ts'
import type { Claims } from '../auth/claims.ts'
import { ServerTls } from '../auth/tls-files.ts'
import { ZenithError } from '../errors.ts'
import { connectPgWire } from './client.ts'
import { type PgWireOptions, type PgWireServer, servePgWire } from './server.ts'

const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])
const GSS_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 48])
const log = pino({ level: 'silent' })
const claims: Claims = {
  scope: 'wal-read',
  tenantId: null,
  timelineId: null,
  subject: 'test',
  expiresAtMs: 0,
}

const cleanUp: (() => unknown)[] = []
afterEach(async () => {
  for (const step of cleanUp.splice(0).toReversed()) await step()
})

let asked: string[] = []

async function serve(options: Partial<PgWireOptions> = {}): Promise<PgWireServer> {
  asked = []
  const server = await servePgWire({
    host: '127.0.0.1',
    port: 0,
    log,
    authenticate: (token) => {
      asked.push(token)
      return token === 'good'
        ? Promise.resolve(claims)
        : Promise.reject(new ZenithError('unauthenticated', 'the token is not valid'))
    },
    onSession: async (session) => {
      for (let sql = await session.nextQuery(); sql !== null; sql = await session.nextQuery()) {
        session.sendRowDescription([{ name: 'scope' }])
        session.sendDataRow([session.claims?.scope ?? null])
        session.sendCommandComplete('SELECT 1')
        session.sendReadyForQuery()
      }
    },
    ...options,
  })
  cleanUp.push(() => server.close())
  return server
}

/** Certificates in a folder of their own; `renew` replaces the server's. */
async function certificates(hosts = ['127.0.0.1']) {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-tls-'))
  const nowMs = Date.now()
  const authority = await makeAuthority('test', nowMs)
  const files = { cert: join(dir, 'a.pem'), key: join(dir, 'a.key') }
  const renew = async (name: string) => {
    const options = { name, hosts, nowMs, lifetimeMs: 3_600_000 }
    writeCertificate(files, await makeCertificate(authority, options))
  }
  await renew('first')
  const tls = new ServerTls(files, log)
  cleanUp.push(() => tls.close())
  cleanUp.push(() => rmSync(dir, { recursive: true, force: true }))
  return { ca: authority.cert, tls, renew, files }
}

/** Sends bytes and gathers what comes back until the server ends the connection. */
function exchange(port: number, ...parts: Buffer[]): Promise<Buffer> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    const got: Buffer[] = []
    socket.on('data', (chunk: Buffer) => got.push(chunk))
    socket.on('error', () => {})
    socket.on('close', () => resolve(Buffer.concat(got)))
    for (const part of parts) socket.write(part)
  })
}

function startup(parameters = 'user\0x\0\0'): Buffer {
  const body = Buffer.from(parameters)
  const header = Buffer.alloc(8)
  header.writeUInt32BE(body.length + 8, 0)
  header.writeUInt32BE(196608, 4)
  return Buffer.concat([header, body])
}

test('a good token is let in and known to the session', async () => {
  const { port } = await serve()
  const client = await connectPgWire({ port, token: 'good' })
  expect((await client.query('x')).rows).toEqual([['wal-read']])
  await client.close()
})

test('a wrong token and none are refused, in words without the token', async () => {
  const { port } = await serve()
  const failure = (token?: string) =>
    connectPgWire({ port, ...(token === undefined ? {} : { token }) }).then(
      () => null,
      (error: unknown) => error as ZenithError,
    )
  const wrong = await failure('a-wrong-secret')
  expect(wrong).toMatchObject({ code: 'unauthenticated' })
  expect(wrong?.message).not.toContain('a-wrong-secret')
  expect(await failure()).toMatchObject({ code: 'unauthenticated' })
  expect(asked).toEqual(['a-wrong-secret'])
})

test('many wrong tokens make their sender wait, and nobody else', async () => {
  const { port } = await serve()
  const attempt = (token: string) => connectPgWire({ port, token }).catch(() => null)
  for (let index = 0; index < 7; index++) await attempt('wrong')
  const slowSince = performance.now()
  const slow = attempt('wrong').then(() => performance.now() - slowSince)
  const fastSince = performance.now()
  await (await attempt('good'))?.close()
  const fastMs = performance.now() - fastSince
  const slowMs = await slow
  expect(slowMs).toBeGreaterThan(500)
  expect(fastMs).toBeLessThan(slowMs)
})

test('who does not show a token in time is cut off', async () => {
  const { port } = await serve({ startupTimeoutMs: 200 })
  const since = performance.now()
  const answers = await Promise.all([
    exchange(port),
    exchange(port, startup()),
    exchange(port, startup().subarray(0, 5)),
    exchange(port, startup(), Buffer.from([0x70, 0, 0, 1, 0])),
    exchange(port, GSS_REQUEST),
  ])
  expect(performance.now() - since).toBeLessThan(5_000)
  for (const answer of answers) expect(answer.length).toBeLessThan(20)
})

test('of too many strangers the oldest goes, and an honest client comes in', async () => {
  const { port } = await serve()
  const idle: Socket[] = []
  cleanUp.push(() => {
    for (const socket of idle) socket.destroy()
  })
  let closed = 0
  for (let index = 0; index < 300; index++) {
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => {})
    socket.on('close', () => closed++)
    socket.resume()
    idle.push(socket)
    await new Promise((resolve) => socket.once('connect', resolve))
  }
  const client = await connectPgWire({ port, token: 'good' })
  expect((await client.query('x')).rows).toEqual([['wal-read']])
  while (closed < 45) await sleep(10)
  expect(idle.slice(0, 40).every((socket) => socket.closed)).toBe(true)
  expect(closed).toBeLessThan(60)
  await client.close()
})

test('over TLS, with the name and the authority verified', async () => {
  const { ca, tls } = await certificates()
  const { port } = await serve({ tls: () => tls.context })
  const client = await connectPgWire({ port, token: 'good', tls: { ca } })
  expect((await client.query('x')).rows).toEqual([['wal-read']])
  await client.close()

  const stranger = await certificates()
  await expect(connectPgWire({ port, token: 'good', tls: { ca: stranger.ca } })).rejects.toThrow(
    'no TLS connection',
  )
  const misnamed = await certificates(['sk7.example.com', '10.1.2.3'])
  const other = await serve({ tls: () => misnamed.tls.context })
  await expect(
    connectPgWire({ port: other.port, token: 'good', tls: { ca: misnamed.ca } }),
  ).rejects.toThrow('no TLS connection')
  expect(asked).toEqual([])
})

test('a port of TLS asks nobody for a token in the clear', async () => {
  const { tls } = await certificates()
  const { port } = await serve({ tls: () => tls.context })
  await expect(connectPgWire({ port, token: 'good' })).rejects.toThrow('encrypted connections only')
  const answer = await exchange(port, startup(), Buffer.from('p\0\0\0\x09good\0', 'latin1'))
  expect(answer[0]).toBe('E'.charCodeAt(0))
  expect(asked).toEqual([])
})

test('a client that wants TLS does without the connection rather than without TLS', async () => {
  const { ca } = await certificates()
  const { port } = await serve()
  await expect(connectPgWire({ port, token: 'good', tls: { ca } })).rejects.toThrow(
    'does not speak TLS',
  )
  expect(asked).toEqual([])
})

test('nothing older than TLS 1.3, and no plaintext slipped in before it', async () => {
  const { ca, tls } = await certificates()
  const { port } = await serve({ tls: () => tls.context })
  const old = await new Promise<string>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(SSL_REQUEST))
    socket.once('data', () => {
      const secure = connectTls({ socket, ca, host: '127.0.0.1', maxVersion: 'TLSv1.2' })
      secure.on('error', (error) => resolve(error.message))
      secure.on('secureConnect', () => resolve('connected'))
    })
  })
  expect(old).not.toBe('connected')
  const slipped = await exchange(port, Buffer.concat([SSL_REQUEST, startup()]))
  expect(slipped.toString()).toContain('plaintext where TLS should begin')
})

test('a new certificate is for new connections; a pair that does not fit changes nothing', async () => {
  const { ca, tls, renew, files } = await certificates()
  const { port } = await serve({ tls: () => tls.context })
  const served = () =>
    new Promise<string>((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(SSL_REQUEST))
      socket.once('data', () => {
        const secure = connectTls({ socket, ca, host: '127.0.0.1' }, () => {
          resolve(String(secure.getPeerCertificate().subject.CN))
          secure.destroy()
        })
        secure.on('error', reject)
      })
    })
  const client = await connectPgWire({ port, token: 'good', tls: { ca } })
  expect(await served()).toBe('first')
  await renew('second')
  while ((await served()) !== 'second') await sleep(50)
  expect((await client.query('still there')).rows).toEqual([['wal-read']])
  const stranger = await certificates()
  writeCertificate(files, { cert: stranger.ca, key: 'no key' })
  await sleep(1500)
  expect(await served()).toBe('second')
  await client.close()
})

test('whatever strangers send, they get an error or nothing, and others are served', async () => {
  const { tls } = await certificates()
  const plain = await serve({ startupTimeoutMs: 150 })
  const secure = await servePgWire({
    host: '127.0.0.1',
    port: 0,
    log,
    tls: () => tls.context,
    startupTimeoutMs: 150,
    onSession: () => Promise.resolve(),
  })
  cleanUp.push(() => secure.close())
  const seeds = [startup(), SSL_REQUEST, GSS_REQUEST, Buffer.from('p\0\0\0\x08bad\0', 'latin1')]
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map((value) => Buffer.from(value)),
    fc.tuple(fc.shuffledSubarray(seeds), fc.nat(), fc.nat(255)).map(([parts, at, value]) => {
      const all = Buffer.concat(parts)
      if (all.length > 0) all[at % all.length] = value
      return all
    }),
  )
  await fc.assert(
    fc.asyncProperty(bytes, async (payload) => {
      const answers = await Promise.all([
        exchange(plain.port, payload),
        exchange(secure.port, payload),
      ])
      for (const answer of answers) expect(answer.length).toBeLessThan(2_000)
    }),
    { numRuns: 40 },
  )
  // On a busy machine even an honest client may take longer than that to show its token.
  const comeIn = () => connectPgWire({ port: plain.port, token: 'good' })
  const client = await vi.waitFor(comeIn, { timeout: 30_000 })
  expect((await client.query('x')).rows).toEqual([['wal-read']])
  await client.close()
})

test('queries that nobody waits for do not pile up', async () => {
  const { port } = await serve({
    onSession: async (session) => {
      await session.nextQuery()
      await session.closed
    },
  })
  const query = Buffer.alloc(100_000, 'x')
  query[0] = 'Q'.charCodeAt(0)
  query.writeUInt32BE(query.length - 1, 1)
  const password = Buffer.from('p\0\0\0\x09good\0', 'latin1')
  const answer = await exchange(
    port,
    startup(),
    password,
    ...Array.from({ length: 20 }, () => query),
  )
  expect(answer.toString()).toContain('too many queries')
})
