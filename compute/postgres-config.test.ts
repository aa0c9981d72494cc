import { describe, expect, it } from 'vitest'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import { PROTECTED_SETTINGS } from '#libs/pg/protected-settings.ts'
import { autoConf, postgresConf, protectedSettings } from './postgres-config.ts'

const node = { id: 1, host: '127.0.0.1', pgPort: 64000, httpPort: 9898 }
const spec: ComputeSpec = {
  tenantId: '0'.repeat(32),
  timelineId: '1'.repeat(32),
  branch: 'main',
  mode: 'primary',
  endpoint: 'main',
  attempt: 1,
  host: '127.0.0.1',
  port: 55432,
  controlPlaneUrl: 'http://127.0.0.1:9090',
  pageserver: node,
  safekeepers: [node],
  membershipGeneration: 1,
  pgVersion: 170011,
  systemId: '7',
}
const options = { spec, startLsn: 0x1609610, socketFolder: null, supervisorAddress: '127.0.0.1:1' }

/** The last line for a name, which is the one that Postgres obeys. */
function effective(conf: string, name: string): string | undefined {
  return conf
    .split('\n')
    .filter((line) => line.startsWith(`${name} = `))
    .at(-1)
    ?.slice(name.length + 3)
}

describe('settings', () => {
  it('say where the pages are and where WAL begins', () => {
    const conf = postgresConf(options)
    expect(effective(conf, 'zenith.pageserver_connstring')).toBe("'host=127.0.0.1 port=64000'")
    expect(protectedSettings(options)).toMatchObject({
      'zenith.start_lsn': '0/1609610',
      synchronous_standby_names: 'walproposer',
      unix_socket_directories: '',
    })
  })

  it('let the owner choose, but not what the storage depends on', () => {
    const settings = {
      shared_buffers: '16MB',
      fsync: 'on',
      synchronous_standby_names: '',
      shared_preload_libraries: 'pg_stat_statements, zenith',
      wal_level: 'minimal',
      track_commit_timestamp: 'on',
    }
    const own = { ...options, spec: { ...spec, settings } }
    expect(effective(postgresConf(own), 'shared_buffers')).toBe("'16MB'")
    expect(effective(postgresConf(own), 'wal_level')).toBe('replica')
    expect(effective(postgresConf(own), 'track_commit_timestamp')).toBe("'on'")
    expect(effective(postgresConf(options), 'track_commit_timestamp')).toBe('off')
    expect(effective(postgresConf(own), 'shared_preload_libraries')).toBe(
      "'zenith,pg_stat_statements'",
    )
    expect(protectedSettings(own)).toMatchObject({
      fsync: 'off',
      synchronous_standby_names: 'walproposer',
    })
  })

  it('that are protected are those of the command line, and never in a file', () => {
    const names = Object.keys(protectedSettings(options))
    expect(names.filter((name) => !PROTECTED_SETTINGS.includes(name))).toEqual([])
    const everything = Object.fromEntries(names.map((name) => [name.toUpperCase(), 'x']))
    const text = autoConf({ ...everything, work_mem: '1MB' })
    expect(text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))).toEqual([
      "work_mem = '1MB'",
    ])
  })

  it('keep our library among those that are preloaded', () => {
    expect(effective(postgresConf(options), 'shared_preload_libraries')).toBe("'zenith'")
    const preload = autoConf({ shared_preload_libraries: '"pg_cron", zenith,other' })
    expect(effective(preload, 'shared_preload_libraries')).toBe("'zenith,pg_cron,other'")
  })
})
