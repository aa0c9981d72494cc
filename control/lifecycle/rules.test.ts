import { expect, test } from 'vitest'
import type { EndpointRecord, TimelineRecord } from '../records.ts'
import {
  checkArchive,
  checkDelete,
  checkReplace,
  checkUnarchive,
  type Family,
  nextStep,
  oldName,
} from './rules.ts'

function timeline(over: Partial<TimelineRecord> = {}): TimelineRecord {
  return {
    tenantId: 't',
    timelineId: 'own',
    branch: 'dev',
    state: 'active',
    ancestorTimelineId: null,
    ancestorLsn: null,
    startLsn: '0/10',
    systemId: '7',
    pgVersion: 170011,
    safekeepers: [1],
    pendingSafekeepers: [],
    membershipGeneration: 1,
    createdAt: '',
    ...over,
  }
}

function family(over: Partial<Family> = {}): Family {
  const own = over.timeline ?? timeline()
  return {
    branch: { name: 'dev', timelineId: 'own', parent: null, branchLsn: null, createdAt: '' },
    timeline: own,
    timelines: [own],
    endpoints: [],
    isMain: false,
    ...over,
  }
}

const child = timeline({ timelineId: 'child', branch: 'leaf', ancestorTimelineId: 'own' })
const refusal = (work: () => void) => {
  try {
    work()
    return null
  } catch (error) {
    return error
  }
}

test('a branch is deleted only when nobody needs it and somebody means it', () => {
  const check = (over: Partial<Family>, evenMain = false) =>
    refusal(() => checkDelete(family(over), { evenMain }))
  expect(check({})).toBeNull()
  expect(check({ isMain: true })).toMatchObject({ code: 'conflict' })
  expect(check({ isMain: true }, true)).toBeNull()
  expect(check({ timelines: [timeline(), child] })).toMatchObject({
    message: expect.stringContaining('"leaf"'),
    hint: expect.stringContaining('zenith branch detach leaf'),
  })
  expect(check({ timelines: [timeline(), { ...child, state: 'archived' }] })).not.toBeNull()
  expect(check({ timelines: [timeline(), { ...child, state: 'deleting' }] })).toBeNull()
  expect(check({ branch: { ...family().branch, protected: true } })).not.toBeNull()
  expect(check({ timeline: timeline({ state: 'archived' }) })).toBeNull()
  expect(check({ timeline: timeline({ state: 'creating' }) })).not.toBeNull()
  expect(check({ timeline: timeline({ newSafekeepers: [2] }) })).not.toBeNull()
  const follows = {
    server: { host: 'h', pgPort: 5432 },
    slot: 's',
  } as TimelineRecord['follows'] & {}
  expect(check({ timeline: timeline({ follows }) })).toMatchObject({
    hint: expect.stringContaining('zenith import stop dev'),
  })
  const lost = { ...follows, lost: true as const }
  expect(check({ timeline: timeline({ follows: lost }) })).toBeNull()
  const archived = () => checkArchive(family({ timeline: timeline({ follows: lost }) }))
  expect(refusal(archived)).not.toBeNull()
  const replaces = { timelineId: 'own', keepAs: null, detach: false }
  expect(check({ timelines: [timeline(), timeline({ timelineId: 'n', replaces })] })).not.toBeNull()
})

test('a branch in use, or with children in use, is not archived', () => {
  const check = (over: Partial<Family>) => refusal(() => checkArchive(family(over)))
  const endpoint = { name: 'dev', timelineId: 'own', status: 'running' } as EndpointRecord
  expect(check({})).toBeNull()
  expect(check({ endpoints: [endpoint] })).toMatchObject({
    hint: expect.stringContaining('pg stop'),
  })
  expect(check({ endpoints: [{ ...endpoint, status: 'stopped' }] })).toBeNull()
  expect(check({ timelines: [timeline(), child] })).not.toBeNull()
  expect(check({ timelines: [timeline(), { ...child, state: 'archived' }] })).toBeNull()
})

test('an archived branch needs its parent, a protected one is not replaced', () => {
  const own = timeline({ state: 'archived', ancestorTimelineId: 'parent' })
  const parent = timeline({ timelineId: 'parent', branch: 'up', state: 'archived' })
  const both = { timeline: own, timelines: [own, parent] }
  expect(refusal(() => checkUnarchive(family(both)))).toMatchObject({
    hint: expect.stringContaining('unarchive up'),
  })
  const branch = { ...family().branch, protected: true as const }
  expect(refusal(() => checkReplace(family({ branch }), 'reset'))).not.toBeNull()
  expect(refusal(() => checkReplace(family(), 'reset'))).toBeNull()
})

test('the record says what comes next', () => {
  const replaces = { timelineId: 'x', keepAs: null, detach: true }
  const detaching = { ancestorTimelineId: 'x', ancestorLsn: '0/10' }
  expect(nextStep(timeline())).toBeNull()
  expect(nextStep(timeline({ state: 'creating' }))).toBeNull()
  expect(nextStep(timeline({ state: 'creating', replaces }))).toBe('create')
  expect(nextStep(timeline({ replaces, detaching }))).toBe('replace')
  expect(nextStep(timeline({ detaching }))).toBe('detach')
  expect(nextStep(timeline({ state: 'deleting', detaching }))).toBe('delete')
})

test('the old state gets a name that is free and not too long', () => {
  const now = new Date('2026-11-21T21:30:00.123Z')
  expect(oldName('dev', now, new Set())).toBe('dev_old_20261121t213000')
  expect(oldName('dev', now, new Set(['dev_old_20261121t213000']))).toBe(
    'dev_old_20261121t213000.2',
  )
  expect(oldName('x'.repeat(63), now, new Set()).length).toBeLessThanOrEqual(63)
})
