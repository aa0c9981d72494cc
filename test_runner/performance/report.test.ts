import { expect, test } from 'vitest'
import { median, Report } from './report.ts'

test('medians and ratios say how good Zenith is against vanilla', () => {
  const report = new Report()
  const rate = { name: 'rate', unit: 'tx/s', better: 'more', how: '' } as const
  const time = { name: 'time', unit: 's', better: 'less', how: '' } as const
  for (const sample of [100, 300, 200]) report.add(rate, 'vanilla', sample)
  for (const sample of [100, 90, 110]) report.add(rate, 'zenith', sample)
  report.add(time, 'vanilla', 2)
  report.add(time, 'zenith', 4)
  report.add({ ...time, name: 'branch' }, 'zenith', 1234.4)
  expect(report.rows().map((row) => row.ratio)).toEqual([0.5, 0.5, null])
  expect(report.table()).toContain('branch   s     -        1,234')
  expect(median([1, 2])).toBe(1.5)
  expect(median([])).toBeNull()
})
