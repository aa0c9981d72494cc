import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { crc32c } from '#libs/wal/crc32c.ts'
import { parseBackupManifest, verifyBackup } from './backup-manifest.ts'

const CONTENT = Buffer.from('the contents of a relation')
const { signal } = new AbortController()
let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'manifest-'))
  await mkdir(join(folder, 'base'))
  await mkdir(join(folder, 'pg_wal'))
  await writeFile(join(folder, 'base', '1'), CONTENT)
  await writeFile(join(folder, 'pg_wal', '000000010000000000000001'), 'not listed')
  await writeFile(join(folder, 'backup_manifest'), 'not listed')
})
afterEach(() => rm(folder, { recursive: true }))

function crcText(content: Buffer): string {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(crc32c(content))
  return bytes.toString('hex')
}

function manifest(file: Record<string, unknown> = {}): string {
  const entry = {
    Path: 'base/1',
    Size: CONTENT.length,
    'Checksum-Algorithm': 'CRC32C',
    Checksum: crcText(CONTENT),
    ...file,
  }
  const body =
    `{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 7412345678901234567,\n` +
    `"Files": [\n${JSON.stringify(entry)}],\n` +
    `"WAL-Ranges": [\n{ "Timeline": 1, "Start-LSN": "0/28", "End-LSN": "0/120" }\n],\n`
  const sum = createHash('sha256').update(body).digest('hex')
  return `${body}"Manifest-Checksum": "${sum}"}\n`
}

const verify = (text: string) => verifyBackup(folder, parseBackupManifest(text), () => {}, signal)

describe('backup_manifest', () => {
  test('is read with its exact numbers', () => {
    const parsed = parseBackupManifest(manifest())
    expect(parsed.systemId).toBe('7412345678901234567')
    expect(parsed.endLsn).toBe(0x120)
    expect(parsed.files).toHaveLength(1)
  })

  test('any changed byte of it is noticed', () => {
    const text = manifest()
    const last = text.indexOf('"Manifest-Checksum"') + 85
    fc.assert(
      fc.property(fc.integer({ min: 0, max: last }), (at) => {
        const code = text.charCodeAt(at) ^ 1
        const changed = text.slice(0, at) + String.fromCharCode(code) + text.slice(at + 1)
        expect(() => parseBackupManifest(changed)).toThrow('checksum')
      }),
    )
  })

  test('files are compared by name, size and checksum', async () => {
    await verify(manifest())
    const sha = createHash('sha512').update(CONTENT).digest('hex')
    await verify(manifest({ 'Checksum-Algorithm': 'SHA512', Checksum: sha }))
    await verify(manifest({ 'Checksum-Algorithm': 'NONE', Checksum: undefined }))
    const encoded = Buffer.from('base/1').toString('hex')
    await verify(manifest({ Path: undefined, 'Encoded-Path': encoded }))
    await expect(verify(manifest({ Size: 3 }))).rejects.toThrow('has 26 bytes of "base/1", not 3')
    await expect(verify(manifest({ Checksum: '00000000' }))).rejects.toThrow('checksum is wrong')
    await expect(verify(manifest({ 'Checksum-Algorithm': 'MD4' }))).rejects.toThrow('unknown kind')
    await writeFile(join(folder, 'base', '2'), 'extra')
    await expect(verify(manifest())).rejects.toThrow('"base/2", which its manifest does not name')
    await rm(join(folder, 'base', '2'))
    await rm(join(folder, 'base', '1'))
    await expect(verify(manifest())).rejects.toThrow('lacks the file "base/1"')
  })
})
