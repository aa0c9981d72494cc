import { expect, test } from 'vitest'
import { formatBranchTree } from './branch-tree.ts'
import { formatTable } from './table.ts'

const main = { name: 'main', parent: null, branchLsn: null }

test('one branch below main, as the original draws it', () => {
  const tree = formatBranchTree([
    main,
    { name: 'migration_check', parent: 'main', branchLsn: '0/1609610' },
  ])
  expect(tree).toBe(' main\n ┗━ @0/1609610: migration_check\n')
})

test('nested branches, ordered by LSN as a number', () => {
  const tree = formatBranchTree([
    main,
    { name: 'late', parent: 'main', branchLsn: '1/0' },
    { name: 'early', parent: 'main', branchLsn: '0/FFFFFF' },
    { name: 'dev', parent: 'early', branchLsn: '0/FFFFFFF' },
    { name: 'same', parent: 'main', branchLsn: '0/FFFFFF' },
  ])
  expect(tree).toBe(
    [
      ' main',
      ' ┣━ @0/FFFFFF: early',
      ' ┃  ┗━ @0/FFFFFFF: dev',
      ' ┣━ @0/FFFFFF: same',
      ' ┗━ @1/0: late',
      '',
    ].join('\n'),
  )
})

test('a branch whose parent is not listed is not lost', () => {
  expect(formatBranchTree([{ name: 'x', parent: 'gone', branchLsn: '0/1' }])).toBe(' x\n')
  expect(formatBranchTree([])).toBe('')
})

test('tables are aligned, without spaces at the ends', () => {
  const table = formatTable(
    ['BRANCH', 'PORT'],
    [
      ['main', 55432],
      ['migration_check', null],
    ],
  )
  expect(table).toBe('BRANCH           PORT\nmain             55432\nmigration_check  -\n')
})
