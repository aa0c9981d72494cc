import { expect, test } from 'vitest'
import { InlineRule } from './inline-rule.ts'

const one = {}
const other = {}

function quickRule(): InlineRule {
  const rule = new InlineRule()
  expect(rule.applies(one, 100, 0)).toBe(false)
  for (let write = 0; write < 64; write++) rule.took(100)
  return rule
}

test('applies to small writes of a lone timeline once the disk has shown that it is quick', () => {
  const rule = quickRule()
  expect(rule.applies(one, 100, 0)).toBe(true)
  expect(rule.applies(one, 65_536, 0)).toBe(true)
  expect(rule.applies(one, 65_537, 0)).toBe(false)
})

test('a stall is forgiven, a disk that has become slow is not', () => {
  const rule = quickRule()
  rule.took(3_000)
  expect(rule.applies(one, 100, 0)).toBe(true)
  for (let write = 0; write < 16; write++) rule.took(1_000)
  expect(rule.applies(one, 100, 0)).toBe(false)
  for (let write = 0; write < 64; write++) rule.took(100)
  expect(rule.applies(one, 100, 0)).toBe(true)
})

test('two timelines that write take turns in the thread pool', () => {
  const rule = quickRule()
  expect(rule.applies(other, 100, 10)).toBe(false)
  expect(rule.applies(one, 100, 20)).toBe(false)
  expect(rule.applies(one, 100, 1_019)).toBe(false)
  expect(rule.applies(one, 100, 1_020)).toBe(true)
})
