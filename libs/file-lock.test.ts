import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { lockFile } from './file-lock.ts'

let folder: string
let file: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-lock-'))
  file = join(folder, 'lock')
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

test('a second holder is refused and told who holds it', async () => {
  const first = await lockFile(file, { purpose: 'zenith start', timeoutMs: 0 })
  const second = lockFile(file, { purpose: 'zenith stop', timeoutMs: 0 })
  await expect(second).rejects.toThrow(`zenith start (process ${process.pid}) holds ${file}.`)
  first.release()
  first.release()
  const third = await lockFile(file, { purpose: 'zenith stop', timeoutMs: 0 })
  expect(readFileSync(file, 'utf8')).toContain('zenith stop')
  third.release()
})

test('a second holder waits for the first', async () => {
  const first = await lockFile(file, { purpose: 'one', timeoutMs: 0 })
  const waited: string[] = []
  const options = { purpose: 'two', timeoutMs: 10_000, onWait: (who: string) => waited.push(who) }
  const second = lockFile(file, options)
  setTimeout(() => first.release(), 50)
  const lock = await second
  expect(waited).toEqual([`one (process ${process.pid})`])
  lock.release()
})

test('waiting ends after the time given', async () => {
  const first = await lockFile(file, { purpose: 'one', timeoutMs: 0 })
  await expect(lockFile(file, { purpose: 'two', timeoutMs: 100 })).rejects.toThrow('holds')
  first.release()
})

test('the lock of a killed process is free', async () => {
  const lib = fileURLToPath(new URL('file-lock.ts', import.meta.url))
  const program = `
    import { lockFile } from ${JSON.stringify(lib)}
    await lockFile(${JSON.stringify(file)}, { purpose: 'child', timeoutMs: 0 })
    console.log('locked')
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(child.stdout, 'data')
  await expect(lockFile(file, { purpose: 'me', timeoutMs: 0 })).rejects.toThrow('child')
  child.kill('SIGKILL')
  await once(child, 'exit')
  const lock = await lockFile(file, { purpose: 'me', timeoutMs: 5_000 })
  lock.release()
})

test('a lock file that is removed while waiting protects nothing and is made again', async () => {
  const first = await lockFile(file, { purpose: 'one', timeoutMs: 0 })
  const second = lockFile(file, { purpose: 'two', timeoutMs: 10_000 })
  setTimeout(() => {
    rmSync(file)
    first.release()
  }, 50)
  const lock = await second
  expect(readFileSync(file, 'utf8')).toContain('two')
  lock.release()
})
