import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { LagClock } from './lag-clock.ts'

test('is the distance to the furthest end, and the age of the first that was not reached', () => {
  const clock = new LagClock()
  expect(clock.lag(100, 0)).toBeNull()
  clock.heard(100, 1000)
  expect(clock.lag(100, 5000)).toEqual({ bytes: 0, ms: 0 })
  clock.heard(150, 6000)
  clock.heard(180, 7000)
  // Somebody who lags himself.
  clock.heard(120, 7500)
  expect(clock.lag(100, 8000)).toEqual({ bytes: 80, ms: 2000 })
  expect(clock.lag(160, 9000)).toEqual({ bytes: 20, ms: 2000 })
  expect(clock.lag(180, 9000)).toEqual({ bytes: 0, ms: 0 })
  // What it ended at is no news.
  clock.heard(180, 9500)
  expect(clock.lag(180, 9900)).toEqual({ bytes: 0, ms: 0 })
  clock.heard(190, 9950)
  expect(clock.lag(180, 9960)).toEqual({ bytes: 10, ms: 10 })
})

test('keeps few marks, and the oldest of them, however long it is behind', () => {
  const steps = fc.array(fc.tuple(fc.nat(50), fc.nat(1000), fc.nat(60)), { maxLength: 600 })
  fc.assert(
    fc.property(steps, (drawn) => {
      const clock = new LagClock()
      // A far end as soon as something is there, so that this stays the oldest.
      clock.heard(1, 0)
      let [end, now, reached] = [1, 0, 0]
      const heard: { lsn: number; atMs: number }[] = [{ lsn: 1, atMs: 0 }]
      for (const [grown, later, taken] of drawn) {
        now += later
        if (grown > 0) heard.push({ lsn: end + grown, atMs: now })
        end += grown
        clock.heard(end, now)
        reached = Math.min(reached + (heard.length > 300 ? taken : 0), end)
        const lag = clock.lag(reached, now)
        const first = heard.find(({ lsn }) => lsn > reached)
        expect(lag?.bytes).toBe(end - reached)
        // Marks that were left out make it seem younger, never older.
        expect(lag?.ms).toBeLessThanOrEqual(first === undefined ? 0 : now - first.atMs)
        if (reached === 0) expect(lag?.ms).toBe(now)
      }
    }),
  )
})
