import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Service } from './installation.ts'
import { recordProcess } from './process-record.ts'
import { probeHealth, waitUntilHealthy } from './service-process.ts'

const dir = mkdtempSync(join(tmpdir(), 'zenith-service-process-'))
let server: Server
let answer: object = {}
let service: Service

beforeAll(async () => {
  server = createServer((_, reply) => reply.end(JSON.stringify(answer)))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  service = {
    kind: 'control',
    name: 'control',
    title: 'control plane',
    dir,
    configFile: join(dir, 'control.toml'),
    logFile: join(dir, 'control.log'),
    pidFile: join(dir, 'control.pid'),
    pgPort: null,
    httpPort: (server.address() as AddressInfo).port,
    authority: null,
  }
  recordProcess(service.pidFile, process.pid)
})

afterAll(() => {
  server.close()
  rmSync(dir, { recursive: true })
})

test('a service is well when its own process says so', async () => {
  answer = { status: 'ok', service: 'control', pid: process.pid }
  expect(await probeHealth(service, 5_000)).toEqual({ healthy: true, reason: 'ok' })
})

test("another installation's service on the same port is not taken for it", async () => {
  answer = { status: 'ok', service: 'control', pid: process.ppid }
  expect(await probeHealth(service, 5_000)).toEqual({
    healthy: false,
    reason: `another process, ${process.ppid}, answers on its port`,
  })
  let asked = 0
  const child = {
    pid: process.pid,
    logStart: 0,
    ending: () => (++asked > 3 ? 'exit code 1' : null),
  }
  await expect(waitUntilHealthy(service, child)).rejects.toThrow(/could not start \(exit code 1\)/)
})
