import { expect, test } from 'vitest'
import { PAGE_SIZE } from '#libs/protocol/page-stream.ts'
import { PageBuffers } from './page-buffers.ts'

test('buffers have just the size asked for, and their memory is used again', () => {
  const buffers = new PageBuffers()
  for (const count of [1, 2, 4, 5, 16, 17, 63, 64]) {
    const first = buffers.take(count)
    expect(first.length).toBe(count * PAGE_SIZE)
    buffers.release(first)
    const second = buffers.take(count)
    expect(second.buffer).toBe(first.buffer)
    expect(second.length).toBe(count * PAGE_SIZE)
  }
})

test('two takers never share memory', () => {
  const buffers = new PageBuffers()
  expect(buffers.take(3).buffer).not.toBe(buffers.take(3).buffer)
})
