import { afterEach, expect, test } from 'vitest'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { makeAuthority, makeCertificate, writeCertificate } from '../auth/certificates.ts'
import type { Claims } from '../auth/claims.ts'
import { ServerTls } from '../auth/tls-files.ts'
import { ZenithError } from '../errors.ts'
import { createMetrics } from '../metrics.ts'
import { requestJson, requestText } from './client.ts'
import { guardRoutes } from './guard.ts'
import { createHttp } from './server.ts'

const log = pino({ level: 'silent' })
const cleanUp: (() => unknown)[] = []
afterEach(async () => {
  for (const step of cleanUp.splice(0).toReversed()) await step()
})

const claims = (subject: string): Claims => ({
  scope: 'sk-peer',
  tenantId: null,
  timelineId: null,
  subject,
  expiresAtMs: 0,
})

let handled = 0

async function serve(tls: ServerTls | null = null): Promise<number> {
  handled = 0
  const app = await createHttp({ service: 'test', log, metrics: createMetrics('test'), tls })
  guardRoutes(app, {
    log,
    verify: (token) =>
      token === 'good' || token === 'limited'
        ? Promise.resolve(claims(token))
        : Promise.reject(new ZenithError('unauthenticated', 'the token is not valid')),
    isOpen: (_, path) => path === '/healthz',
    permit: ({ subject }, method, path, params) => {
      expect([method, path]).toEqual(['POST', '/v1/thing/:id'])
      expect(params).toEqual({ id: '7' })
      if (subject === 'limited') throw new ZenithError('forbidden', 'not for you')
    },
  })
  app.post('/v1/thing/:id', () => {
    handled++
    return { done: true }
  })
  await app.listen({ host: '127.0.0.1', port: 0 })
  cleanUp.push(() => app.close())
  return (app.server.address() as AddressInfo).port
}

test('a route is for those who may, and the others do not reach it', async () => {
  const url = `http://127.0.0.1:${await serve()}/v1/thing/7`
  expect(await requestJson('POST', url, {}, { token: 'good' })).toEqual({ done: true })
  const refused = { wrong: 'unauthenticated', limited: 'forbidden', 'a b': 'unauthenticated' }
  for (const [token, code] of Object.entries(refused)) {
    await expect(requestJson('POST', url, {}, { token })).rejects.toMatchObject({ code })
  }
  await expect(requestJson('POST', url, {})).rejects.toMatchObject({ code: 'unauthenticated' })
  expect(handled).toBe(1)
  const health = url.replace('/v1/thing/7', '/healthz')
  expect(await requestJson('GET', health)).toMatchObject({ status: 'ok' })
  await expect(requestJson('GET', `${health}/none`)).rejects.toMatchObject({ code: 'not_found' })
})

test('a body is not waited for when its sender has no right to send it', async () => {
  const port = await serve()
  const answer = await new Promise<string>((resolve) => {
    const socket = connect(port, '127.0.0.1')
    let text = ''
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString()
      socket.destroy()
    })
    socket.on('close', () => resolve(text))
    socket.write('POST /v1/thing/7 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n')
    socket.write('content-length: 1000000\r\n\r\n{')
  })
  expect(answer).toMatch(/^HTTP\/1.1 401/)
})

test('over TLS, verified; a new certificate needs no restart', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-https-'))
  cleanUp.push(() => rmSync(dir, { recursive: true, force: true }))
  const nowMs = Date.now()
  const files = { cert: join(dir, 'a.pem'), key: join(dir, 'a.key') }
  const certify = async (authority: { cert: string; key: string }) => {
    const options = { name: 'a', hosts: ['127.0.0.1'], nowMs, lifetimeMs: 3_600_000 }
    writeCertificate(files, await makeCertificate(authority, options))
  }
  const [first, second] = [await makeAuthority('one', nowMs), await makeAuthority('two', nowMs)]
  await certify(first)
  const tls = new ServerTls(files, log)
  cleanUp.push(() => tls.close())
  const port = await serve(tls)
  const url = `https://127.0.0.1:${port}/healthz`
  const health = (ca: string) => requestJson('GET', url, undefined, { tls: { ca } })
  expect(await health(first.cert)).toMatchObject({ status: 'ok' })
  await expect(health(second.cert)).rejects.toMatchObject({ code: 'unavailable' })
  await expect(requestText('GET', `http://127.0.0.1:${port}/healthz`)).rejects.toMatchObject({
    code: 'unavailable',
  })
  await certify(second)
  while ((await health(second.cert).catch(() => null)) === null) await new Promise(setImmediate)
  await expect(health(first.cert)).rejects.toMatchObject({ code: 'unavailable' })
  // Both in the file while the authority changes.
  expect(await health(first.cert + second.cert)).toMatchObject({ status: 'ok' })
})
