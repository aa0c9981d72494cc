import { describe, expect, it } from 'vitest'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type { ControlFile } from '#libs/pg/control-file.ts'
import { safekeeperService, standbySettings } from './standby-config.ts'

const DATA = '/data folder'
const node = (id: number) => ({ id, host: '127.0.0.1', pgPort: 5453 + id, httpPort: 7675 + id })
const spec: ComputeSpec = {
  tenantId: '0'.repeat(32),
  timelineId: '1'.repeat(32),
  branch: 'main',
  endpoint: 'reader',
  mode: 'replica',
  attempt: 1,
  host: '127.0.0.1',
  port: 55432,
  controlPlaneUrl: 'http://127.0.0.1:9090',
  pageserver: node(1),
  safekeepers: [node(1), node(2)],
  membershipGeneration: 1,
  pgVersion: 170011,
  systemId: '7',
}
const control = {
  maxConnections: 200,
  maxWorkerProcesses: 8,
  maxWalSenders: 10,
  maxPreparedXacts: 64,
  maxLocksPerXact: 64,
} as ControlFile

describe('settings of a standby', () => {
  it('name a file with every safekeeper, and the branch', () => {
    const { primary_conninfo: conninfo } = standbySettings(spec, control, DATA)
    expect(conninfo).toContain('service=safekeepers ')
    expect(conninfo).not.toContain('host=')
    expect(safekeeperService(spec.safekeepers)).toBe(
      '[safekeepers]\nhost=127.0.0.1,127.0.0.1\nport=5454,5455\n',
    )
    expect(conninfo).toContain(`-c timeline_id=${spec.timelineId}`)
  })

  it('name the files of the token and of the authorities, where there are any', () => {
    const safekeeperAccess = { token: 'secret', expiresInMs: 1000, ca: 'PEM' }
    const settings = standbySettings({ ...spec, safekeeperAccess }, control, DATA)
    expect(settings['primary_conninfo']).toContain("passfile='/data folder/safekeeper.pass'")
    expect(settings['primary_conninfo']).toContain(
      "sslmode=verify-full sslrootcert='/data folder/safekeeper-ca.pem'",
    )
    expect(settings['primary_conninfo']).not.toContain('secret')
  })

  it('of a static compute name no source of WAL', () => {
    expect(standbySettings({ ...spec, mode: 'static' }, control, DATA)['primary_conninfo']).toBe('')
  })

  it('are never below those of the primary, and above when the owner says so', () => {
    const low = { ...spec, settings: { max_connections: '20' } }
    expect(standbySettings(low, control, DATA)['max_connections']).toBe('200')
    const high = { ...low, systemSettings: { max_connections: '300' } }
    expect(standbySettings(high, control, DATA)['max_connections']).toBe('300')
  })
})
