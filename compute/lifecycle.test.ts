import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { INITIAL_STATE, type LifecycleEvent, type LifecycleState, next } from './lifecycle.ts'

function run(events: LifecycleEvent[]): { state: LifecycleState; effects: string[] } {
  let state = INITIAL_STATE
  const effects: string[] = []
  for (const event of events) {
    const step = next(state, event)
    state = step.state
    effects.push(...step.effects)
  }
  return { state, effects }
}

const up: LifecycleEvent[] = [{ kind: 'elected' }, { kind: 'fetched' }, { kind: 'ready' }]
const ended = (clean: boolean): LifecycleEvent => ({
  kind: 'postgres-ended',
  clean,
  reason: 'signal SIGSEGV',
})

describe('lifecycle', () => {
  it('starts, runs and stops in order', () => {
    const { state, effects } = run([
      ...up,
      { kind: 'stop-asked' },
      ended(true),
      { kind: 'committed' },
    ])
    expect(state).toEqual({ phase: 'ended', outcome: 'stopped', reason: null })
    expect(effects).toEqual([
      'fetch-base-backup',
      'start-postgres',
      'stream',
      'report',
      'stop-postgres',
      'report',
      'finish-proposer',
      'report',
      'exit',
    ])
  })

  it('does not commit what an unclean shutdown left', () => {
    const { state } = run([...up, { kind: 'stop-asked' }, ended(false)])
    expect(state).toMatchObject({ phase: 'ended', outcome: 'crashed' })
  })

  it('kills Postgres first when it is fenced, and ends as fenced', () => {
    const fenced: LifecycleEvent = { kind: 'fenced', reason: 'term 7' }
    expect(run([...up, fenced])).toMatchObject({ state: { phase: 'killing', outcome: 'fenced' } })
    const { state, effects } = run([...up, fenced, ended(false)])
    expect(state).toEqual({ phase: 'ended', outcome: 'fenced', reason: 'term 7' })
    expect(effects.at(-1)).toBe('exit')
  })

  it('stops at once before there is a Postgres', () => {
    expect(run([{ kind: 'elected' }, { kind: 'stop-asked' }])).toMatchObject({
      state: { phase: 'ended', outcome: 'stopped' },
    })
  })

  it('gives up a clean stop without a quorum', () => {
    const late = run([...up, { kind: 'stop-asked' }, { kind: 'stop-overdue' }, ended(false)])
    expect(late.state).toMatchObject({ phase: 'ended', outcome: 'stopped' })
  })

  it('begins anew when its primary has outgrown it, unless it is stopped meanwhile', () => {
    const outgrown: LifecycleEvent = { kind: 'outgrown' }
    const { state, effects } = run([...up, outgrown, ended(false), ...up.slice(1)])
    expect(state.phase).toBe('running')
    expect(effects.filter((effect) => effect === 'fetch-base-backup')).toHaveLength(2)
    expect(run([...up, outgrown, { kind: 'stop-asked' }, ended(false)]).state).toEqual({
      phase: 'ended',
      outcome: 'stopped',
      reason: null,
    })
    expect(run([...up, { kind: 'stop-asked' }, outgrown]).state.phase).toBe('stopping')
  })

  it('ends at most once, whatever happens in whatever order', () => {
    const event = fc.oneof(
      fc.constantFrom<LifecycleEvent>(
        { kind: 'elected' },
        { kind: 'fetched' },
        { kind: 'ready' },
        { kind: 'outgrown' },
        { kind: 'stop-asked' },
        { kind: 'stop-overdue' },
        { kind: 'committed' },
        { kind: 'fenced', reason: 'x' },
        { kind: 'failed', reason: 'x' },
      ),
      fc.boolean().map(ended),
    )
    fc.assert(
      fc.property(fc.array(event, { maxLength: 30 }), (events) => {
        const { state, effects } = run(events)
        const count = (name: string) => effects.filter((effect) => effect === name).length
        expect(count('exit')).toBe(state.phase === 'ended' ? 1 : 0)
        expect(count('start-postgres')).toBeLessThanOrEqual(1)
        expect(count('kill-postgres')).toBeLessThanOrEqual(1)
        if (state.phase === 'ended') expect(state.outcome).not.toBeNull()
      }),
    )
  })
})
