/**
 * Every operation on branches, with the control plane dying at each of its writes, before the write
 * or right after it: another one goes on from the records alone, and all agree in the end. Services
 * are small stand-ins that keep what they are told; the real ones are in branches.pg.test.ts.
 */
import { afterEach, describe, expect, test } from 'vitest'
import { MemoryStore } from '../store/memory-store.ts'
import { nextStep } from './rules.ts'
import { MortalStore } from './testing/mortal-store.ts'
import {
  closeServices,
  controlPlane,
  type Plane,
  type Services,
  services,
  START,
} from './testing/stand-ins.ts'

const TENANT = 'a'.repeat(32)
afterEach(closeServices)

type Operation = (plane: Plane) => Promise<unknown>

/** Whatever happened: records, names and services agree, and nothing is under way. */
async function expectSettled({ registry }: Plane, state: Services): Promise<void> {
  const timelines = await registry.timelines(TENANT)
  const branches = await registry.branches(TENANT)
  expect(timelines.map(nextStep).filter((step) => step !== null)).toEqual([])
  const ids = timelines.map(({ timelineId }) => timelineId).sort()
  expect(branches.map(({ timelineId }) => timelineId).sort()).toEqual(ids)
  expect([...state.pageserver.keys()].sort()).toEqual(ids)
  expect([...state.safekeeper].sort()).toEqual(ids)
  for (const { timelineId, state: is, ancestorTimelineId, branch } of timelines) {
    expect(state.pageserver.get(timelineId)).toBe(is)
    expect(branches.find((one) => one.timelineId === timelineId)?.name).toBe(branch)
    if (ancestorTimelineId !== null) expect(ids).toContain(ancestorTimelineId)
  }
  for (const endpoint of await registry.endpoints(TENANT)) {
    const branch = branches.find(({ name }) => name === endpoint.branch)
    expect(branch?.timelineId).toBe(endpoint.timelineId)
  }
}

const OPERATIONS: Record<string, { before?: Operation; run: Operation; after: Operation }> = {
  delete: {
    run: ({ lifecycle }) => lifecycle.delete(TENANT, 'dev', {}),
    after: async ({ registry }) => expect(await registry.findBranch(TENANT, 'dev')).toBeNull(),
  },
  archive: {
    run: ({ lifecycle }) => lifecycle.archive(TENANT, 'dev'),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).at(-1)).toMatchObject({ state: 'archived' }),
  },
  unarchive: {
    before: ({ lifecycle }) => lifecycle.archive(TENANT, 'dev'),
    run: ({ lifecycle }) => lifecycle.unarchive(TENANT, 'dev'),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).at(-1)).toMatchObject({ state: 'active' }),
  },
  detach: {
    run: ({ lifecycle }) => lifecycle.detach(TENANT, 'dev'),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).at(-1)).toMatchObject({ parent: null }),
  },
  reset: {
    run: ({ lifecycle }) => lifecycle.reset(TENANT, 'dev', { keepAs: 'kept' }),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).map(({ name }) => name).sort()).toEqual([
        'dev',
        'kept',
        'main',
      ]),
  },
  'reset and discard': {
    run: ({ lifecycle }) => lifecycle.reset(TENANT, 'dev', { discard: true }),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).map(({ name }) => name).sort()).toEqual(['dev', 'main']),
  },
  restore: {
    run: ({ lifecycle }) => lifecycle.restore(TENANT, 'main', { lsn: START, keepAs: 'kept' }),
    after: async ({ registry }) => {
      const main = await registry.branch(TENANT, 'main')
      expect((await registry.tenant(TENANT)).mainTimelineId).toBe(main.timelineId)
      const timeline = await registry.timeline(TENANT, main.timelineId)
      expect(timeline).toMatchObject({ ancestorTimelineId: null, historyStartLsn: START })
    },
  },
}

describe('operations on branches', () => {
  for (const [name, { before, run, after }] of Object.entries(OPERATIONS)) {
    test(`${name}: goes on after the control plane died at any of its writes`, async () => {
      let done = false
      for (let writes = 0; !done; writes++) {
        for (const storesLast of [false, true]) {
          const disk = new MemoryStore()
          const state = await services(disk)
          const store = new MortalStore(disk)
          const plane = controlPlane(store)
          await plane.tenants.create(TENANT)
          await plane.branches.create(TENANT, { name: 'dev' })
          await plane.endpoints.create(TENANT, { branch: 'dev' })
          await before?.(plane)
          store.writesLeft = writes
          store.storesLast = storesLast
          done = await run(plane).then(
            () => true,
            () => false,
          )
          const next = controlPlane(disk)
          const begun = done || (await next.registry.timelines(TENANT)).some(nextStep)
          // As the resumer does, again and again: one that is replaced is deleted in the next round.
          await next.lifecycle.resume()
          await next.lifecycle.resume()
          await expectSettled(next, state)
          if (begun) await after(next)
          expect(writes).toBeLessThan(30)
        }
      }
    })
  }
})
