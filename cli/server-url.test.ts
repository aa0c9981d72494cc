import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parseServerUrl } from './server-url.ts'

const NO_FILE = { PGPASSFILE: '/nowhere' }

describe('the address of a stock server', () => {
  test('a URL says all', () => {
    const url = 'postgres://joe:s%40cret@db.example:5433/app?sslmode=require'
    expect(parseServerUrl(url, NO_FILE)).toEqual({
      host: 'db.example',
      pgPort: 5433,
      user: 'joe',
      password: 's@cret',
      sslMode: 'require',
    })
    expect(parseServerUrl('postgresql://joe@[::1]/', NO_FILE)).toMatchObject({
      host: '::1',
      pgPort: 5432,
      sslMode: 'prefer',
    })
  })

  test('what it leaves out comes from the environment', () => {
    const env = {
      ...NO_FILE,
      PGHOST: 'other',
      PGPORT: '6000',
      PGUSER: 'ann',
      PGPASSWORD: 'pw',
      PGSSLMODE: 'verify-full',
    }
    expect(parseServerUrl('postgres:///', env)).toEqual({
      host: 'other',
      pgPort: 6000,
      user: 'ann',
      password: 'pw',
      sslMode: 'verify-full',
    })
  })

  test('a password file, if nobody else may read it', () => {
    const folder = mkdtempSync(join(tmpdir(), 'pgpass-'))
    const PGPASSFILE = join(folder, 'pgpass')
    writeFileSync(PGPASSFILE, '# mine\nother:*:*:*:no\n*:5432:replication:joe:a\\:b\n', {
      mode: 0o600,
    })
    expect(parseServerUrl('postgres://joe@h/', { PGPASSFILE }).password).toBe('a:b')
    expect(parseServerUrl('postgres://joe@h:1/', { PGPASSFILE }).password).toBeUndefined()
    chmodSync(PGPASSFILE, 0o644)
    expect(parseServerUrl('postgres://joe@h/', { PGPASSFILE }).password).toBeUndefined()
    rmSync(folder, { recursive: true })
  })

  test('what is wrong is named', () => {
    expect(() => parseServerUrl('http://h/', NO_FILE)).toThrow('no URL of a Postgres')
    expect(() => parseServerUrl('postgres://h/?sslmode=maybe', NO_FILE)).toThrow('no sslmode')
    expect(() => parseServerUrl('postgres://h/?sslkey=k', NO_FILE)).toThrow('"sslkey"')
  })
})
