import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Cache } from './cache.ts'
import { candidateSources } from './postgres-source.ts'
import { POSTGRES_RELEASES } from './postgres-versions.ts'

let folder: string
let cache: Cache

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-source-'))
  cache = new Cache(join(folder, 'cache'))
})

afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(folder, { recursive: true, force: true })
})

function name(path: string): Promise<unknown> {
  vi.stubEnv('ZENITH_POSTGRES_SOURCE', path)
  return candidateSources(cache)
}

function tree(version: string): string {
  const path = join(folder, 'tree')
  mkdirSync(join(path, 'src'), { recursive: true })
  writeFileSync(join(path, 'configure'), `PACKAGE_VERSION='${version}'\n`)
  writeFileSync(join(path, 'src', 'main.c'), 'int main() {}\n')
  return path
}

test('without a name, the releases that Debian may have', async () => {
  vi.stubEnv('ZENITH_POSTGRES_SOURCE', '')
  const sources = await candidateSources(cache)
  expect(sources.map(({ version }) => version)).toEqual(POSTGRES_RELEASES.map((r) => r.version))
  expect(sources[0]?.path).toMatch(/\/cache\/sources\/postgresql-17_17\.\d+\.orig\.tar\.bz2$/)
})

test('a name that is not there', async () => {
  await expect(name(join(folder, 'none'))).rejects.toThrow('which is not there')
})

test('a tarball with an unknown checksum, unless the user vouches for it', async () => {
  const path = join(folder, 'postgresql-17.99.tar.bz2')
  writeFileSync(path, 'not postgres')
  const sha256 = '9b5afc37f2db9fd2c3cb7b5c0d86f5f9e5eb6b4b6bd5de0e0f6bbcd0f8a3e9bc'
  await expect(name(path)).rejects.toThrow(
    'is not the source of a Postgres that this project knows',
  )
  vi.stubEnv('ZENITH_POSTGRES_SHA256', sha256)
  await expect(name(path)).rejects.toThrow('its sha256 is')
  const error: unknown = await name(path).catch((reason: unknown) => reason)
  const actual = /its sha256 is (\w+)/.exec(String(error))?.[1] ?? ''
  vi.stubEnv('ZENITH_POSTGRES_SHA256', actual)
  expect(await name(path)).toMatchObject([{ version: '17.99', kind: 'tarball' }])
})

test('a tree is known by its content, not by its times', async () => {
  const path = tree('17.12')
  const first = await name(path)
  expect(first).toMatchObject([{ version: '17.12', kind: 'tree', path }])
  writeFileSync(join(path, 'src', 'main.c'), 'int main() {}\n')
  expect(await name(path)).toEqual(first)
  writeFileSync(join(path, 'src', 'main.c'), 'int main() { return 1; }\n')
  expect(await name(path)).not.toEqual(first)
})

test('a tree of another version, one without Postgres, one that was built in', async () => {
  await expect(name(tree('16.4'))).rejects.toThrow('where there is Postgres 16.4')
  rmSync(join(folder, 'tree', 'configure'))
  await expect(name(join(folder, 'tree'))).rejects.toThrow('where there is no Postgres source')
  const path = tree('17.12')
  writeFileSync(join(path, 'config.status'), '')
  await expect(name(path)).rejects.toThrow('has been built in')
})
