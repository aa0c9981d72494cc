import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { runLogged } from './command.ts'

let folder: string
let logFile: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-command-'))
  logFile = join(folder, 'logs', 'step.log')
})

afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(folder, { recursive: true, force: true })
})

test('output goes to the log, whole lines to the caller', async () => {
  const lines: string[] = []
  const onLine = (line: string): void => void lines.push(line)
  const command = ['sh', '-c', 'printf "a\\nb"; printf "c\\n"; echo problem >&2']
  await runLogged({ what: 'Testing', command, logFile, onLine })
  expect(lines).toEqual(['a', 'bc'])
  const log = readFileSync(logFile, 'utf8')
  expect(log).toContain('$ sh -c')
  expect(log).toMatch(/a\nb/)
  expect(log).toContain('problem')
})

test('a failure shows the end of the log and where it is', async () => {
  const command = ['sh', '-c', 'echo the reason; exit 3']
  const failed = runLogged({ what: 'Testing', command, logFile })
  await expect(failed).rejects.toThrow(/^Testing failed \(exit code 3\):[\s\S]*the reason/)
  await expect(failed).rejects.toMatchObject({ hint: expect.stringContaining(logFile) as string })
})

test('a program that is not there', async () => {
  const failed = runLogged({ what: 'Testing', command: ['/no/such/program'], logFile })
  await expect(failed).rejects.toThrow('ENOENT')
})

test('variables that would change a build are not handed on', async () => {
  vi.stubEnv('MAKEFLAGS', '--dry-run')
  const command = ['sh', '-c', 'test -z "$MAKEFLAGS" && test "$LC_ALL" = C && test "$X" = y']
  await runLogged({ what: 'Testing', command, logFile, env: { X: 'y' } })
})
