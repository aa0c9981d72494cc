import { expect, it } from 'vitest'
import type { TenantId } from '#libs/ids.ts'
import { Attachment } from './attachment.ts'

const attachment = () => new Attachment('a'.repeat(32) as TenantId)

it('lets the only holder write and release', () => {
  const one = attachment()
  expect(one.mayWrite).toBe(true)
  expect(one.released(['x'])).toEqual(['x'])
  expect(one.become('attached')).toEqual([])
})

it('keeps what an older holder may need until there is none', () => {
  const one = attachment()
  one.become('multi')
  expect(one.mayWrite).toBe(true)
  expect(one.released(['x'])).toEqual([])
  expect(one.released(['y', 'z'])).toEqual([])
  expect(one.become('multi')).toEqual([])
  expect(one.become('attached')).toEqual(['x', 'y', 'z'])
  expect(one.become('attached')).toEqual([])
})

it('lets a stale holder write and release nothing', () => {
  const one = attachment()
  one.become('stale')
  expect(one.mayWrite).toBe(false)
  expect(() => one.checkMayWrite()).toThrow('is being moved to another page server')
  expect(one.released(['x'])).toEqual([])
  expect(one.become('attached')).toEqual([])
})
