import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ProgressFile } from './progress-file.ts'

let dir: string
let path: string

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'zenith-progress-'))
  path = join(dir, 'zenith_progress')
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

test('golden bytes, as the extension maps them', () => {
  const file = new ProgressFile(path)
  file.tell(
    { lastReceivedLsn: 0x1_0000_0030, diskConsistentLsn: 0x20, remoteConsistentLsn: 0x10 },
    { bytes: 0x4000, lsn: 0x1_0000_0030 },
  )
  const bytes = readFileSync(path)
  expect(bytes.length).toBe(4096)
  expect(bytes.toString('hex', 0, 64)).toBe(
    '5a505247' +
      '01000000' +
      '3000000001000000' +
      '2000000000000000' +
      '1000000000000000' +
      // The exclusive or of the three and of 0x5a656e6974685052.
      '52506874686e655a' +
      '0040000000000000' +
      '3000000001000000' +
      // The same of these two.
      '62106874686e655a',
  )
  file.close()
})

test('reads what backends slept', () => {
  const file = new ProgressFile(path)
  expect(file.figures()).toEqual({ sleeps: 0, sleptUs: 0, limitExceeded: false })
  const bytes = readFileSync(path)
  bytes.writeBigUInt64LE(3n, 64)
  bytes.writeBigUInt64LE(30_500n, 72)
  bytes.writeBigUInt64LE(1n, 80)
  writeFileSync(path, bytes)
  expect(file.figures()).toEqual({ sleeps: 3, sleptUs: 30_500, limitExceeded: true })
  file.close()
})
