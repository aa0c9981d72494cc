import { expect, test } from 'vitest'
import { ByteReport } from './byte-report.ts'

test('pages are summed over comparisons and printed by kind, differences last', () => {
  const report = new ByteReport(0x1000028)
  report.compared('buffers', 'main', 3, 1)
  report.compared('buffers', 'main', 4, 1)
  report.compared('stock replay', 'slru', 2)
  report.passOver('buffers of unlogged relations')
  report.seconds.set('replay', 1.26)
  expect(report.pages).toBe(9)
  report.differ({ comparison: 'buffers', name: '1663/5/1 main block 7', what: 'differs' })
  expect(String(report).split('\n')).toEqual([
    'byte oracle: 9 pages compared, 1 differing (at 0/1000028)',
    '  buffers: 7 main (2 after masks)',
    '  stock replay: 2 slru',
    '  not compared: 1 buffers of unlogged relations',
    '  time: replay 1.3 s',
    '  buffers: 1663/5/1 main block 7 differs',
  ])
})
