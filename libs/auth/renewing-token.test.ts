import { pino } from 'pino'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { RenewingToken } from './renewing-token.ts'

const log = pino({ level: 'silent' })
const HOUR_MS = 3_600_000

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

/** Gives out a, b, c and so on, each for an hour; `down` makes it fail. */
function issuer() {
  const state = { down: false, asked: [] as (string | null)[] }
  const fetch = (current: string | null) => {
    state.asked.push(current)
    if (state.down) return Promise.reject(new Error('nobody is there'))
    const token = String.fromCodePoint(97 + state.asked.length)
    return Promise.resolve({ token, expiresInMs: HOUR_MS })
  }
  return { state, fetch }
}
const settle = () => new Promise((resolve) => setImmediate(resolve))

test('is exchanged at half its life, while the old one is still given', async () => {
  const { state, fetch } = issuer()
  const token = new RenewingToken({ fetch, log, initial: { token: 'a', expiresInMs: HOUR_MS } })
  vi.advanceTimersByTime(HOUR_MS / 2 - 1)
  expect(await token.get()).toBe('a')
  expect(state.asked).toEqual([])
  vi.advanceTimersByTime(2)
  expect(await Promise.all([token.get(), token.get()])).toEqual(['a', 'a'])
  await settle()
  expect(await token.get()).toBe('b')
  expect(state.asked).toEqual(['a'])
})

test('outlives an absence of the control plane of half its life, and says so after that', async () => {
  const { state, fetch } = issuer()
  const token = new RenewingToken({ fetch, log })
  expect(await token.get()).toBe('b')
  state.down = true
  vi.advanceTimersByTime(HOUR_MS - 1)
  expect(await token.get()).toBe('b')
  await settle()
  expect(await token.get()).toBe('b')
  // Not with every connection: it waits between attempts.
  expect(state.asked).toEqual([null, 'b'])
  vi.advanceTimersByTime(10)
  await expect(token.get()).rejects.toMatchObject({ code: 'unavailable' })
  state.down = false
  expect(await token.get()).toBe('e')
})

test('many who ask at once ask once', async () => {
  const { state, fetch } = issuer()
  const token = new RenewingToken({ fetch, log })
  expect(await Promise.all([token.get(), token.get(), token.get()])).toEqual(['b', 'b', 'b'])
  expect(state.asked).toEqual([null])
})
