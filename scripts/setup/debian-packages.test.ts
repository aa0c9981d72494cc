import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { missingPackages, packagesNeeded } from './debian-packages.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-dpkg-'))
})

afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(folder, { recursive: true, force: true })
})

/** A machine on which dpkg-query prints these lines. */
function machine(lines: readonly string[]): void {
  const program = join(folder, 'dpkg-query')
  writeFileSync(program, `#!/bin/sh\n/bin/cat <<'END'\n${lines.join('\n')}\nEND\n`)
  chmodSync(program, 0o755)
  vi.stubEnv('PATH', folder)
}

test('installed, removed and virtual packages', () => {
  machine([
    'gcc\tinstalled\tc-compiler, gcc-x86-64-linux-gnu (= 4:12.2.0-3)',
    'make\tconfig-files\t',
    'pkgconf\tinstalled\tpkg-config (= 1.8.1), pkgconfig',
  ])
  const missing = missingPackages()
  expect(missing).not.toContain('gcc')
  expect(missing).not.toContain('pkg-config')
  expect(missing).toContain('make')
  expect(missing).toContain('libicu-dev')
})

test('a system without dpkg has no Debian packages to miss', () => {
  vi.stubEnv('PATH', folder)
  expect(missingPackages()).toEqual([])
})

test('a user without root rights gets the line to paste', () => {
  const error = packagesNeeded(['bison', 'flex'])
  expect(error.message).toContain('needs 2 Debian packages that are not installed')
  expect(error.message).toContain('    sudo apt-get install bison flex\n')
  expect(packagesNeeded(['bison']).message).toContain('needs a Debian package that is not')
})
