import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { FORMAT, readSettings, type Settings, writeSettings } from './settings.ts'

let folder: string
let file: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-settings-'))
  file = join(folder, 'config.toml')
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

const settings: Settings = {
  initialized: true,
  defaultTenant: '0123456789abcdef0123456789abcdef',
  askedPorts: ['pageserver.pg'],
  etcd: [],
  tls: true,
  s3: {
    kind: 's3',
    bucket: 'layers',
    prefix: 'a/b',
    endpoint: 'http://127.0.0.1:9000',
    path_style: true,
  },
  firstEndpointPort: 55432,
  control: { httpPort: 9090 },
  pageservers: [
    { id: 1, name: 'pageserver', pgPort: 64000, httpPort: 9898 },
    { id: 2, name: 'ps2', pgPort: 64001, httpPort: 9899 },
  ],
  safekeepers: [
    { id: 1, name: 'sk1', pgPort: 5454, httpPort: 7676 },
    { id: 2, name: 'sk2', pgPort: 5455, httpPort: 7677 },
  ],
}

test('an installation of before there was TLS has none', () => {
  writeSettings(file, settings)
  writeFileSync(file, readFileSync(file, 'utf8').replace('tls = true\n', ''))
  expect(readSettings(file, '.zenith').tls).toBe(false)
})

test('what is written is read', () => {
  writeSettings(file, settings)
  expect(readSettings(file, '.zenith')).toEqual(settings)
  expect(readFileSync(file, 'utf8')).toContain(`format = ${FORMAT}`)
})

test('an etcd is kept, and named only where there is one', () => {
  expect(readFileSync(write(settings), 'utf8')).not.toContain('etcd')
  const etcd = ['http://10.0.0.1:2379', 'http://10.0.0.2:2379']
  expect(readSettings(write({ ...settings, etcd }), '.zenith').etcd).toEqual(etcd)
})

function write(what: Settings): string {
  writeSettings(file, what)
  return file
}

test('no installation', () => {
  expect(() => readSettings(file, '.zenith')).toThrow('There is no Zenith installation in .zenith.')
})

test('other formats are refused before anything else is read', () => {
  writeFileSync(file, 'pageserver_port = 64000\n')
  expect(() => readSettings(file, '.zenith')).toThrow('made by an older Zenith')
  writeFileSync(file, 'format = 0\n')
  expect(() => readSettings(file, '.zenith')).toThrow('made by an older Zenith (format 0')
  writeFileSync(file, 'format = 99\n')
  expect(() => readSettings(file, '.zenith')).toThrow('made by a newer Zenith (format 99')
})

test('a wrong value is named with its file', () => {
  writeSettings(file, settings)
  const text = readFileSync(file, 'utf8')
  writeFileSync(file, text.replace('pg_port = 5455', 'pg_port = "5455"'))
  expect(() => readSettings(file, '.zenith')).toThrow(
    `${file}: safekeepers.1.pg_port must be a whole number.`,
  )
  writeFileSync(file, text.replace('http_port = 9090', 'http_port = 90900'))
  expect(() => readSettings(file, '.zenith')).toThrow('control.http_port must be a port')
  writeFileSync(file, `${text}\n[`)
  expect(() => readSettings(file, '.zenith')).toThrow('is not valid TOML')
})
