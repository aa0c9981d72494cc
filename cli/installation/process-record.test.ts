import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { forgetProcess, type ProcessRecord, processState, recordProcess } from './process-record.ts'

let folder: string
let file: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-pid-'))
  file = join(folder, 'service.pid')
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

test('alive, ended, forgotten', async () => {
  expect(processState(file)).toEqual({ kind: 'none' })
  const child = spawn('sleep', ['60'])
  await once(child, 'spawn')
  const pid = child.pid ?? 0
  recordProcess(file, pid)
  expect(processState(file)).toEqual({ kind: 'alive', pid })
  child.kill('SIGKILL')
  await once(child, 'exit')
  expect(processState(file)).toEqual({ kind: 'ended', pid })
  forgetProcess(file)
  forgetProcess(file)
  expect(processState(file)).toEqual({ kind: 'none' })
})

test('another process with the same pid, and the same pid before a restart', () => {
  recordProcess(file, process.pid)
  const record = JSON.parse(readFileSync(file, 'utf8')) as ProcessRecord
  writeFileSync(file, JSON.stringify({ ...record, startTicks: '1' }))
  expect(processState(file)).toEqual({ kind: 'ended', pid: process.pid })
  writeFileSync(file, JSON.stringify({ ...record, bootId: 'another' }))
  expect(processState(file)).toEqual({ kind: 'before-boot' })
})

test.each(['', '{"pid":', '{"pid":-1}', '{}', 'null'])(
  'a file cut off by a power cut: %j',
  (text) => {
    writeFileSync(file, text)
    expect(processState(file)).toEqual({ kind: 'none' })
  },
)
