import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { flushDelayMs } from './flush-delay.ts'
import { JOB_KINDS, type JobKind } from './job.ts'
import { FAILURES_TO_REST, nextJob, restAfter, type TargetState } from './scheduler.ts'

function target(id: string, due: Partial<Record<JobKind, number>>, restUntilMs = 0): TargetState {
  return { id, due: { l0: 0, images: 0, bottom: 0, own: 0, ...due }, restUntilMs }
}

describe('the next job', () => {
  test('is of L0 first over all timelines, then images, then the bottom', () => {
    const a = target('a', { images: 9, bottom: 9 })
    const b = target('b', { l0: 1, images: 3 })
    const c = target('c', { bottom: 20 })
    const next = (...targets: TargetState[]) => nextJob({ nowMs: 5, running: null, targets })
    expect(next(a, b, c)).toEqual({ do: 'start', id: 'b', kind: 'l0' })
    expect(next(a, c)).toEqual({ do: 'start', id: 'a', kind: 'images' })
    expect(next(c, target('d', { bottom: 3 }))).toEqual({ do: 'start', id: 'c', kind: 'bottom' })
    expect(next(target('e', {}))).toEqual({ do: 'wait', untilMs: null })
  })

  test('makes a job of a lower kind end early for L0 alone', () => {
    const running = { id: 'a', kind: 'images' as const }
    const other = target('b', { l0: 10 })
    expect(nextJob({ nowMs: 5, running, targets: [other] })).toEqual({ do: 'preempt' })
    const images = target('b', { images: 10 })
    const bottom = { id: 'a', kind: 'bottom' as const }
    expect(nextJob({ nowMs: 5, running: bottom, targets: [images] }).do).toBe('wait')
    const l0 = { id: 'a', kind: 'l0' as const }
    expect(nextJob({ nowMs: 5, running: l0, targets: [other] }).do).toBe('wait')
    const resting = target('b', { l0: 10 }, 6)
    expect(nextJob({ nowMs: 5, running, targets: [resting] }).do).toBe('wait')
  })

  test('is never of a timeline that rests, and comes when the rest ends', () => {
    const amount = fc.oneof(fc.constant(0), fc.nat(20))
    const states = fc.array(
      fc.record({
        due: fc.record({ l0: amount, images: amount, bottom: amount, own: amount }),
        restUntilMs: fc.nat(100),
      }),
      { maxLength: 8 },
    )
    fc.assert(
      fc.property(states, fc.nat(100), (raw, nowMs) => {
        const targets = raw.map((state, index) => ({ ...state, id: `${index}` }))
        const decision = nextJob({ nowMs, running: null, targets })
        const isDue = ({ due }: TargetState) => JOB_KINDS.some((kind) => due[kind] > 0)
        const able = targets.filter((one) => isDue(one) && one.restUntilMs <= nowMs)
        if (decision.do === 'start') {
          const chosen = able.find(({ id }) => id === decision.id) as TargetState
          expect(chosen.due[decision.kind]).toBe(
            Math.max(...able.map(({ due }) => due[decision.kind])),
          )
          const before = JOB_KINDS.slice(0, JOB_KINDS.indexOf(decision.kind))
          for (const kind of before) expect(able.every(({ due }) => due[kind] === 0)).toBe(true)
        } else {
          expect(able).toEqual([])
          const later = targets.filter(isDue).map(({ restUntilMs }) => restUntilMs)
          const untilMs = later.length > 0 ? Math.min(...later) : null
          expect(decision).toEqual({ do: 'wait', untilMs })
        }
      }),
    )
  })
})

test('failures in a row rest a timeline longer and longer', () => {
  expect([1, 2, 3, 4].map(restAfter)).toEqual([1000, 2000, 4000, 8000])
  expect(restAfter(FAILURES_TO_REST)).toBe(600_000)
  expect(restAfter(FAILURES_TO_REST + 1)).toBe(1_200_000)
  expect(restAfter(FAILURES_TO_REST + 50)).toBe(86_400_000)
})

test('a flush waits in proportion to the L0 layers too many, and never for ever', () => {
  const limits = { l0DelayCount: 20, l0DelayMs: 500, l0MaxDelayMs: 30_000 }
  const delays = [0, 19, 20, 21, 40, 1000].map((count) => flushDelayMs(count, limits))
  expect(delays).toEqual([0, 0, 500, 1000, 10_500, 30_000])
})
