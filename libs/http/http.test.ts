import { expect, test } from 'vitest'
import { Type } from 'typebox'
import { ZenithError } from '../errors.ts'
import { createLogger } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { requestJson } from './client.ts'
import { createHttp } from './server.ts'

async function start(notReady: () => string | null) {
  const app = await createHttp({
    service: 'probe',
    log: createLogger('probe'),
    metrics: createMetrics('probe'),
    notReady,
  })
  app.put(
    '/v1/thing/:name',
    {
      schema: {
        params: Type.Object({ name: Type.String() }),
        body: Type.Object({ size: Type.Integer({ minimum: 1 }) }, { additionalProperties: false }),
        response: { 200: Type.Object({ name: Type.String(), size: Type.Integer() }) },
      },
    },
    async (request) => {
      if (request.params.name === 'gone') {
        throw new ZenithError('not_found', 'there is no thing "gone"', { hint: 'make it first' })
      }
      return { name: request.params.name, size: request.body.size }
    },
  )
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  return { app, url }
}

test('typed routes, problems, health, metrics and OpenAPI', async () => {
  let reason: string | null = 'starting'
  const { app, url } = await start(() => reason)
  try {
    expect(await requestJson('PUT', `${url}/v1/thing/a`, { size: 2 })).toEqual({
      name: 'a',
      size: 2,
    })
    await expect(requestJson('PUT', `${url}/v1/thing/gone`, { size: 1 })).rejects.toMatchObject({
      code: 'not_found',
      message: 'there is no thing "gone"',
      hint: 'make it first',
    })
    await expect(requestJson('PUT', `${url}/v1/thing/a`, { size: 0 })).rejects.toMatchObject({
      code: 'invalid_argument',
    })
    await expect(requestJson('GET', `${url}/nothing`)).rejects.toMatchObject({ code: 'not_found' })
    expect((await fetch(`${url}/healthz`)).status).toBe(503)
    reason = null
    const health = { status: 'ok', service: 'probe', pid: process.pid }
    expect(await requestJson('GET', `${url}/healthz`)).toEqual(health)
    expect(await (await fetch(`${url}/metrics`)).text()).toContain('process_cpu_seconds_total')
    const openapi = await requestJson<{ paths: object }>('GET', `${url}/openapi.json`)
    expect(Object.keys(openapi.paths)).toContain('/v1/thing/{name}')
  } finally {
    await app.close()
  }
  await expect(requestJson('GET', `${url}/healthz`)).rejects.toMatchObject({ code: 'unavailable' })
})
