import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { expect, test } from 'vitest'
import { makeSocketFolder, removeSocketFolder } from './socket-folder.ts'

test('each start has a folder of its own, and what earlier ones left goes', () => {
  const endpoint = `/installation/${randomBytes(8).toString('hex')}`
  const first = makeSocketFolder(endpoint, 9) as string
  const second = makeSocketFolder(endpoint, 10) as string
  try {
    expect(second).not.toBe(first)
    expect(existsSync(first)).toBe(false)
    // The one that was replaced ends after the other has begun.
    removeSocketFolder(first)
    expect(existsSync(second)).toBe(true)
    expect(makeSocketFolder(endpoint, 10)).toBe(second)
  } finally {
    removeSocketFolder(second)
  }
  expect(existsSync(second)).toBe(false)
})
