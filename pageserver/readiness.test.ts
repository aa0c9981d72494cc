import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pino } from 'pino'
import { afterEach, expect, test } from 'vitest'
import { reAttach } from './re-attach.ts'
import { Readiness } from './readiness.ts'

const servers: Server[] = []
afterEach(() => {
  for (const server of servers.splice(0)) server.close()
})

test('says what is waited for, and since when', () => {
  let nowMs = 5_000
  const readiness = new Readiness(() => nowMs)
  expect(readiness.reason).toBe('starting')
  readiness.waiting('http://control', 'it does not answer')
  nowMs += 12_000
  readiness.waiting('http://control', 'it is broken')
  expect(readiness.reason).toBe(
    'waiting for the control plane at http://control since 12 s (it is broken); ' +
      "tenants are read once it has confirmed that they are this pageserver's",
  )
  readiness.loading(2)
  expect(readiness.reason).toBe('loading its tenants, 0 of 2 so far')
  readiness.loaded()
  expect(readiness.reason).toBe('loading its tenants, 1 of 2 so far')
  readiness.ready()
  expect(readiness.reason).toBeNull()
})

test('a control plane that is late is waited for, and the log tells of both', async () => {
  let calls = 0
  const server = createServer((_, response) => {
    calls += 1
    response.statusCode = calls < 3 ? 503 : 200
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify(calls < 3 ? { detail: 'the store is locked' } : { tenants: [] }))
  })
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const controlPlaneUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const lines: string[] = []
  const log = pino({}, { write: (line) => lines.push((JSON.parse(line) as { msg: string }).msg) })
  const readiness = new Readiness()
  const reasons: (string | null)[] = []
  const answer = await reAttach({
    controlPlaneUrl,
    pageserverId: 1,
    log,
    signal: new AbortController().signal,
    onWaiting: (problem) => {
      readiness.waiting(controlPlaneUrl, problem)
      reasons.push(readiness.reason)
    },
  })
  expect(answer).toEqual({ tenants: [] })
  expect(reasons).toHaveLength(2)
  expect(reasons[0]).toContain(`waiting for the control plane at ${controlPlaneUrl} since 0 s`)
  expect(lines).toEqual([
    expect.stringContaining(`waiting for the control plane at ${controlPlaneUrl}`),
    expect.stringContaining('the control plane has answered after'),
  ])
})
