import { expect, test } from 'vitest'
import { parseBranchReference } from './branch-reference.ts'

test('branch, branch at an LSN, LSN alone', () => {
  expect(parseBranchReference('dev')).toEqual({ branch: 'dev', lsn: null })
  expect(parseBranchReference('dev@0/16F9A00')).toEqual({ branch: 'dev', lsn: '0/16F9A00' })
  expect(parseBranchReference('@1/0')).toEqual({ branch: 'main', lsn: '1/0' })
})

test.each(['dev@', 'dev@yesterday', 'dev@0/16F9A00@1', 'dev@123'])('%s is refused', (text) => {
  expect(() => parseBranchReference(text)).toThrow('is not an LSN')
})
