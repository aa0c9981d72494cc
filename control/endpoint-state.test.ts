import { describe, expect, it } from 'vitest'
import { reported, startIsOverdue, started, vanished } from './endpoint-state.ts'
import type { EndpointRecord } from './records.ts'

const stopped: EndpointRecord = {
  name: 'main',
  tenantId: '0'.repeat(32),
  timelineId: '1'.repeat(32),
  branch: 'main',
  status: 'stopped',
  host: '127.0.0.1',
  port: null,
  requestedPort: null,
  httpPort: null,
  pid: null,
  lsn: null,
  attempt: 0,
  error: null,
  createdAt: '2026-01-01T00:00:00.000Z',
  startedAt: null,
}
const now = new Date('2026-01-01T00:00:10.000Z')
const starting = started(stopped, 55432, now)
const running = reported(starting, {
  attempt: 1,
  status: 'running',
  pid: 7,
  httpPort: 9,
  lsn: '0/8',
})

describe('endpoint state', () => {
  it('goes from start to running by the report of the compute', () => {
    expect(starting).toMatchObject({ status: 'starting', attempt: 1, port: 55432 })
    expect(running).toMatchObject({ status: 'running', pid: 7, httpPort: 9, lsn: '0/8' })
  })

  it('ignores what an earlier process reports late', () => {
    const again = started({ ...running, status: 'stopped' }, 55432, now)
    expect(reported(again, { attempt: 1, status: 'crashed', error: 'old' })).toBe(again)
  })

  it('stays stopping until the compute has ended', () => {
    const stopping: EndpointRecord = { ...running, status: 'stopping' }
    expect(reported(stopping, { attempt: 1, status: 'running' }).status).toBe('stopping')
    expect(reported(stopping, { attempt: 1, status: 'stopped', lsn: '0/10' })).toMatchObject({
      status: 'stopped',
      lsn: '0/10',
      pid: null,
      httpPort: null,
    })
  })

  it('keeps the reason of a crash', () => {
    const crashed = reported(running, { attempt: 1, status: 'crashed', error: 'SIGSEGV' })
    expect(crashed).toMatchObject({ status: 'crashed', error: 'SIGSEGV', pid: null })
    expect(vanished(running)).toMatchObject({ status: 'crashed', pid: null })
    expect(vanished({ ...running, status: 'stopping' })).toMatchObject({ status: 'stopped' })
  })

  it('gives a start its time', () => {
    expect(startIsOverdue(starting, new Date(now.getTime() + 9_000))).toBe(false)
    expect(startIsOverdue(starting, new Date(now.getTime() + 11_000))).toBe(true)
    expect(startIsOverdue(running, new Date(now.getTime() + 99_000))).toBe(false)
  })
})
