import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { pgxnInstallName } from './pgxn-build.ts'
import { installName, patchFiles } from './postgres-build.ts'
import type { PostgresSource } from './postgres-source.ts'

const SOURCE: PostgresSource = { version: '17.11', contentHash: 'a', kind: 'debian', path: '/x' }
let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-build-'))
  mkdirSync(join(folder, 'one', 'patches'), { recursive: true })
  writeFileSync(join(folder, 'one', 'patches', '0002-b.patch'), 'b')
  writeFileSync(join(folder, 'one', 'patches', '0001-a.patch'), 'a')
  writeFileSync(join(folder, 'one', 'Makefile'), 'all:\n')
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

function nameIn(clone: string): string {
  return installName(SOURCE, patchFiles(join(folder, clone, 'patches')))
}

test('patches apply in the order of their names', () => {
  const names = patchFiles(join(folder, 'one', 'patches'))
  expect(names.map((path) => path.slice(-12))).toEqual(['0001-a.patch', '0002-b.patch'])
})

test('the key is that of the contents: two clones share a build, a change has its own', () => {
  cpSync(join(folder, 'one'), join(folder, 'two'), { recursive: true })
  expect(nameIn('two')).toBe(nameIn('one'))
  expect(pgxnInstallName('p', join(folder, 'two'))).toBe(pgxnInstallName('p', join(folder, 'one')))
  writeFileSync(join(folder, 'two', 'patches', '0001-a.patch'), 'changed')
  expect(nameIn('two')).not.toBe(nameIn('one'))
  expect(installName({ ...SOURCE, contentHash: 'b' }, [])).not.toBe(installName(SOURCE, []))
})

test('what a build leaves behind does not count as a change of the extension', () => {
  const before = pgxnInstallName('p', join(folder, 'one'))
  mkdirSync(join(folder, 'one', 'zenith', 'results'), { recursive: true })
  writeFileSync(join(folder, 'one', 'zenith', 'zenith.o'), 'x')
  writeFileSync(join(folder, 'one', 'zenith', 'results', 'a.out'), 'x')
  expect(pgxnInstallName('p', join(folder, 'one'))).toBe(before)
  writeFileSync(join(folder, 'one', 'zenith', 'zenith.c'), 'x')
  expect(pgxnInstallName('p', join(folder, 'one'))).not.toBe(before)
})
