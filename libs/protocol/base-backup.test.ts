import { expect, test } from 'vitest'
import { parseWalPartName, walPartName } from './base-backup.ts'

test('names of WAL parts', () => {
  expect(walPartName(0x1ff, 0xfe2000)).toBe('pg_wal/0000000100000001000000FF.part-fe2000')
  expect(parseWalPartName(walPartName(1, 0))).toEqual({
    file: 'pg_wal/000000010000000000000001',
    offset: 0,
    fileSizeBytes: 16 * 1024 * 1024,
  })
  for (const name of [
    'pg_wal/000000010000000000000001',
    'pg_wal/000000010000000000000001.part-0',
    'pg_wal/00000001000000000000000g.part-000000',
    'x/pg_wal/000000010000000000000001.part-000000',
    '../pg_wal/000000010000000000000001.part-000000',
  ]) {
    expect(parseWalPartName(name)).toBeNull()
  }
})
