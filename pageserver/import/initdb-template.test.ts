import { describe, expect, test } from 'vitest'
import { type ControlFile, DB_STATE } from '#libs/pg/control-file.ts'
import { importLsn } from './data-folder-import.ts'
import { parseServerVersion } from './initdb-template.ts'

describe('what is imported', () => {
  test('the version as a number', () => {
    expect(parseServerVersion('postgres (PostgreSQL) 17.11\n')).toBe(170011)
    expect(parseServerVersion('postgres (PostgreSQL) 17.0 (Debian 17.0-1)')).toBe(170000)
    expect(() => parseServerVersion('postgres (PostgreSQL) 16.4')).toThrow('not Postgres 17')
    expect(() => parseServerVersion('')).toThrow('not Postgres 17')
  })

  test('the first LSN is the end of the last checkpoint record', () => {
    const control = { state: DB_STATE.shutDown, checkpointLsn: 0x14e6130 } as ControlFile
    expect(importLsn(control)).toBe(0x14e61a8)
    // 114 bytes run across a page end, and the next page has a header of 24.
    expect(importLsn({ ...control, checkpointLsn: 0x14e7fc8 })).toBe(0x14e8058)
  })

  test('only a cluster that was stopped cleanly is taken', () => {
    const control = { state: DB_STATE.inProduction, checkpointLsn: 0x14e6130 } as ControlFile
    expect(() => importLsn(control)).toThrow('not shut down cleanly')
  })
})
