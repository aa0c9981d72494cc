import { chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { giveTo, removeUnprivilegedDir, runAs, unprivilegedDir } from './system-user.ts'

const isRoot = process.getuid?.() === 0
let folder: string

beforeEach(() => {
  // Made with mode 0700, so as root closed to the system user.
  folder = mkdtempSync(join(tmpdir(), 'zenith-user-'))
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

test('a folder that Postgres can use, however often it is asked for', () => {
  const path = join(folder, 'a', 'pgdata')
  const real = unprivilegedDir(path)
  expect(unprivilegedDir(path)).toBe(real)
  const { uid, mode } = statSync(path)
  expect(uid).toBe(runAs()?.uid ?? process.getuid?.())
  expect(mode & 0o777).toBe(0o700)
  removeUnprivilegedDir(path)
  removeUnprivilegedDir(path)
  expect(existsSync(path)).toBe(false)
  expect(existsSync(real)).toBe(false)
})

describe.skipIf(!isRoot)('as root', () => {
  test('there is an unprivileged user', () => {
    expect(runAs()?.uid).toBeGreaterThan(0)
  })

  test('below a closed folder the real one lies elsewhere', () => {
    const path = join(folder, 'pgdata')
    const real = unprivilegedDir(path)
    expect(real).toMatch(/^\/var\/lib\/zenith\/[0-9a-f]{16}-pgdata$/)
    expect(lstatSync(path).isSymbolicLink()).toBe(true)
    // The link has gone with the installation: what it pointed to is not used again.
    mkdirSync(join(real, 'old'))
    rmSync(path)
    expect(unprivilegedDir(path)).toBe(real)
    expect(existsSync(join(real, 'old'))).toBe(false)
    removeUnprivilegedDir(path)
  })

  test('below an open folder it is where it was asked for', () => {
    chmodSync(folder, 0o755)
    const path = join(folder, 'pgdata')
    expect(unprivilegedDir(path)).toBe(path)
    removeUnprivilegedDir(path)
  })

  test('giving away a tree', () => {
    mkdirSync(join(folder, 'x', 'y'), { recursive: true })
    giveTo(join(folder, 'x'))
    expect(statSync(join(folder, 'x', 'y')).uid).toBe(runAs()?.uid)
    expect(statSync(folder).uid).toBe(0)
  })
})
