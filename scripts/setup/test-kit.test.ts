import { expect, test } from 'vitest'
import { describeSuite } from './test-kit.ts'

const NOTHING = {
  NAME: [],
  MODULES: [],
  EXTENSION: [],
  REGRESS: [],
  REGRESS_OPTS: [],
  ISOLATION: [],
  ISOLATION_OPTS: [],
}

test('options of a makefile: extensions to load, settings of the server', () => {
  const files: Record<string, string> = {
    'contrib/one/one.conf': "wal_level = logical\n# a comment\nlib = 'x, y'\n",
  }
  const suite = describeSuite(
    'contrib/one',
    {
      ...NOTHING,
      REGRESS: ['a', 'b'],
      REGRESS_OPTS: ['--temp-config', '../../contrib/one/one.conf', '--dbname=x'],
      ISOLATION: ['c'],
      ISOLATION_OPTS: ['--load-extension=one'],
    },
    (file) => files[file] ?? '',
  )
  expect(suite).toEqual({
    folder: 'contrib/one',
    regress: ['a', 'b'],
    isolation: ['c'],
    isolationExtensions: ['one'],
    settings: { wal_level: 'logical', lib: 'x, y' },
  })
})
