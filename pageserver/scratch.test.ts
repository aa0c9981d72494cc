import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { unprivilegedDir } from '#libs/system-user.ts'
import { clearScratch } from './scratch.ts'

test('what was left goes, wherever it lies; folders that are not there are fine', () => {
  const dir = mkdtempSync(join(tmpdir(), 'scratch-test-'))
  try {
    const [scratch, imports] = [join(dir, 'scratch'), join(dir, 'imports')]
    mkdirSync(join(imports, 'copy', 'base'), { recursive: true })
    writeFileSync(join(imports, 'copy', 'base', '1'), 'x')
    // As root the folder that mkdtemp made is closed to the system user: it lies elsewhere then.
    const real = unprivilegedDir(join(scratch, 'initdb-1'))
    writeFileSync(join(real, 'left'), 'x')
    clearScratch([scratch, imports, join(dir, 'none')])
    expect([readdirSync(scratch), readdirSync(imports)]).toEqual([[], []])
    expect(existsSync(real)).toBe(false)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})
