import { expect, it } from 'vitest'
import { changed } from './endpoint-settings.ts'
import type { EndpointRecord } from './records.ts'
import { wordsOf } from './setting-check.ts'

const record = {
  name: 'main',
  settings: { work_mem: '1MB', port_x: '1' },
  systemSettings: { work_mem: '2MB', jit: 'off' },
} as unknown as EndpointRecord
const settingsOf = ({ settings, systemSettings }: EndpointRecord) => [settings, systemSettings]

it('the later word wins over what ALTER SYSTEM has set', () => {
  expect(settingsOf(changed(record, { set: { WORK_MEM: '3MB' } }))).toEqual([
    { port_x: '1', work_mem: '3MB' },
    { jit: 'off' },
  ])
})

it('a reset concerns both kinds, whatever the case of the name', () => {
  expect(settingsOf(changed(record, { reset: ['Work_Mem'] }))).toEqual([
    { port_x: '1' },
    { jit: 'off' },
  ])
  expect(settingsOf(changed(record, { resetAll: true, set: { jit: 'on' } }))).toEqual([
    { jit: 'on' },
    {},
  ])
})

it('records of earlier versions have no settings', () => {
  const old = { name: 'main' } as unknown as EndpointRecord
  expect(settingsOf(changed(old, { set: { jit: 'off' } }))).toEqual([{ jit: 'off' }, {}])
})

it("Postgres' own words are found in what it prints", () => {
  const stderr = [
    '2026-01-01 00:00:00.000 UTC [1] FATAL:  invalid value for parameter "work_mem": "1XB"',
    '2026-01-01 00:00:00.000 UTC [1] HINT:  Valid units for this parameter are "B", "kB".',
  ].join('\n')
  expect(wordsOf(stderr)).toEqual({
    message: 'invalid value for parameter "work_mem": "1XB".',
    hint: 'Valid units for this parameter are "B", "kB".',
  })
  expect(wordsOf('killed')).toEqual({ message: null, hint: null })
})
