import { expect, test } from 'vitest'
import { formatDuration, formatSize, parseBytes, parseDuration } from './quantity.ts'

test('times', () => {
  expect(parseDuration('7d')).toBe(604_800_000)
  expect(parseDuration('1.5h')).toBe(5_400_000)
  expect(parseDuration('0')).toBe(0)
  for (const text of ['7', 'd', '7 days', '-1d', '']) {
    expect(() => parseDuration(text)).toThrow('is not a time')
  }
  expect(
    ['0', '90s', '12h', '7d', '2w'].map((text) => formatDuration(parseDuration(text))),
  ).toEqual(['0', '90s', '12h', '7d', '14d'])
})

test('sizes', () => {
  expect(parseBytes('10GB')).toBe(10 * 1024 ** 3)
  expect(parseBytes('0.5 MB')).toBe(524_288)
  expect(parseBytes('0')).toBe(0)
  for (const text of ['10', '10gb', 'GB', '-1GB'])
    expect(() => parseBytes(text)).toThrow('not a size')
  const given = ['64GB', '1536MB', '5kB', '1TB', '7B', '0B']
  expect(given.map((text) => formatSize(parseBytes(text)))).toEqual(given)
})
