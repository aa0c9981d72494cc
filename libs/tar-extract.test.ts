import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { pack } from 'tar-stream'
import { afterAll, describe, expect, it } from 'vitest'
import { TarExtractor } from './tar-extract.ts'

const root = mkdtempSync(join(tmpdir(), 'zenith-tar-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const FILES: Record<string, Buffer> = {
  PG_VERSION: Buffer.from('17\n'),
  'global/pg_control': Buffer.alloc(8192, 7),
  'pg_wal/000000010000000000000001': Buffer.concat([
    Buffer.alloc(70_000),
    Buffer.from('record'),
    Buffer.alloc(200_000),
  ]),
  'base/empty': Buffer.alloc(0),
  odd: Buffer.alloc(513, 1),
}

async function archive(files = FILES): Promise<Buffer> {
  const tar = pack()
  for (const folder of ['global', 'pg_wal', 'base']) tar.entry({ name: folder, type: 'directory' })
  for (const [name, contents] of Object.entries(files)) tar.entry({ name }, contents)
  tar.finalize()
  const parts: Buffer[] = []
  for await (const part of tar) parts.push(part as Buffer)
  return Buffer.concat(parts)
}

function extract(bytes: Buffer, cuts: number[]): string {
  const folder = mkdtempSync(join(root, 'x-'))
  const extractor = new TarExtractor(folder, null)
  let from = 0
  for (const cut of [
    ...cuts.map((one) => one % bytes.length).sort((a, b) => a - b),
    bytes.length,
  ]) {
    extractor.write(bytes.subarray(from, cut))
    from = cut
  }
  extractor.end()
  return folder
}

describe('tar extraction', () => {
  it('makes folders that the archive does not name, as in the WAL of a server that archives', async () => {
    const segment = '000000010000000000000002'
    const bytes = await archive({
      [segment]: Buffer.alloc(8192, 1),
      [`archive_status/${segment}.done`]: Buffer.alloc(0),
      'deep/er/file': Buffer.from('x'),
    })
    const folder = extract(bytes, [700])
    expect(statSync(join(folder, `archive_status/${segment}.done`)).size).toBe(0)
    expect(statSync(join(folder, 'archive_status')).mode & 0o777).toBe(0o700)
    expect(readFileSync(join(folder, 'deep/er/file'), 'utf8')).toBe('x')
  })

  it('puts the parts of WAL segments at their offsets', async () => {
    const [first, second] = [Buffer.alloc(8192, 1), Buffer.alloc(8192, 2)]
    const bytes = await archive({
      'pg_wal/000000010000000000000003.part-000000': first,
      'pg_wal/000000010000000000000003.part-ffe000': second,
      'global/pg_control': Buffer.alloc(8192, 7),
    })
    const folder = extract(bytes, [1000, 9000])
    const segment = readFileSync(join(folder, 'pg_wal/000000010000000000000003'))
    expect(segment.length).toBe(16 * 1024 * 1024)
    expect(segment.subarray(0, 8192).equals(first)).toBe(true)
    expect(segment.subarray(0xffe000).equals(second)).toBe(true)
    expect(segment.subarray(8192, 0xffe000).every((byte) => byte === 0)).toBe(true)
  })

  it('gives the same files however the stream is cut', async () => {
    const bytes = await archive()
    fc.assert(
      fc.property(fc.array(fc.nat(), { maxLength: 40 }), (cuts) => {
        const folder = extract(bytes, cuts)
        for (const [name, contents] of Object.entries(FILES)) {
          expect(readFileSync(join(folder, name)).equals(contents)).toBe(true)
        }
        expect(statSync(join(folder, 'global')).mode & 0o777).toBe(0o700)
        expect(statSync(join(folder, 'odd')).mode & 0o777).toBe(0o600)
        rmSync(folder, { recursive: true })
      }),
      { numRuns: 30 },
    )
  })

  it('refuses an archive that stops early', async () => {
    const bytes = await archive()
    expect(() => extract(bytes.subarray(0, 3000), [])).toThrow(/ends in the middle/)
  })

  it('refuses names that lead outside, and damaged headers', async () => {
    const outside = await archive({ '../evil': Buffer.from('x') })
    expect(() => extract(outside, [])).toThrow(/outside/)
    const damaged = await archive()
    damaged[0] = (damaged[0] as number) ^ 1
    expect(() => extract(damaged, [])).toThrow(/checksum/)
  })
})
