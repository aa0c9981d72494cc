import { expect, test } from 'vitest'
import { parsePlace } from './branch-place.ts'

test('a state of a branch is named by LSN, by time, or is its end', () => {
  expect(parsePlace('dev')).toEqual({ branch: 'dev' })
  expect(parsePlace('dev@0/1609610')).toEqual({ branch: 'dev', lsn: '0/1609610' })
  expect(parsePlace('@0/10')).toEqual({ branch: 'main', lsn: '0/10' })
  const at = '2026-11-21T15:28:08Z'
  expect(parsePlace(`dev@${at}`)).toEqual({ branch: 'dev', at })
  expect(() => parsePlace('dev@yesterday')).toThrow('"yesterday" is neither an LSN nor a time')
})
