import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { logTail, readableLine } from './log-tail.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-log-'))
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

test('JSON lines become sentences', () => {
  const time = Date.UTC(2026, 0, 1, 11, 22, 33)
  const line = { level: 60, time, msg: 'start failed', err: { message: 'port 1 is taken' } }
  expect(readableLine(JSON.stringify(line))).toBe('11:22:33 fatal start failed: port 1 is taken')
  expect(readableLine(JSON.stringify({ level: 30, time, msg: 'ok' }))).toBe('11:22:33 info ok')
  expect(readableLine('{ half a line')).toBe('{ half a line')
  expect(readableLine('plain')).toBe('plain')
})

test('the end of a log, without the frames of stacks', () => {
  const file = join(folder, 'x.log')
  expect(logTail(file)).toEqual([])
  writeFileSync(file, `${'x'.repeat(200_000)}\none\nError: two\n    at f (a.ts:1:1)\n\n`)
  expect(logTail(file, { maxLines: 5 })).toEqual(['one', 'Error: two'])
  expect(logTail(file, { from: 200_005 })).toEqual(['Error: two'])
})
