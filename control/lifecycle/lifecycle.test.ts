/**
 * Every operation on branches, with the control plane dying at each of its writes, before the write
 * or right after it: another one goes on from the records alone, and all agree in the end. Services
 * are small stand-ins that keep what they are told; the real ones are in branches.pg.test.ts.
 */
import { afterEach, describe, expect, test } from 'vitest'
import { type ErrorCode, ZenithError } from '#libs/errors.ts'
import { parseLsn } from '#libs/lsn.ts'
import { tenantShardId } from '#libs/sharding.ts'
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

const refusal = new ZenithError('out_of_range', 'that is no longer kept')

/** Each makes a timeline that a pageserver refuses once it has made it. */
const CREATIONS: Record<string, Operation> = {
  branch: ({ branches }) => branches.create(TENANT, { name: 'new' }),
  reset: ({ lifecycle }) => lifecycle.reset(TENANT, 'dev', { keepAs: 'kept' }),
  restore: ({ lifecycle }) => lifecycle.restore(TENANT, 'main', { lsn: START }),
}

describe('a creation that is refused', () => {
  for (const [name, run] of Object.entries(CREATIONS)) {
    for (const shards of [1, 2]) {
      test(`${name}, ${shards} shards: leaves nothing, wherever the control plane dies`, async () => {
        let refused = false
        for (let writes = 0; !refused; writes++) {
          for (const storesLast of [false, true]) {
            const disk = new MemoryStore()
            const state = await services(disk)
            const store = new MortalStore(disk)
            const plane = controlPlane(store)
            await plane.tenants.create(TENANT, { shards })
            await plane.branches.create(TENANT, { name: 'dev' })
            const before = [...state.shards].sort()
            // With shards, all but the last have made it for good by then.
            state.refusals.set(tenantShardId(TENANT, shards - 1, shards), refusal)
            store.writesLeft = writes
            store.storesLast = storesLast
            const error = await run(plane).catch((thrown: unknown) => thrown)
            refused = error instanceof ZenithError && error.message.includes(refusal.message)
            const next = controlPlane(disk)
            await next.branches.resume()
            // One round sees the refusal, the next removes what it was about.
            await next.lifecycle.resume()
            await next.lifecycle.resume()
            await expectSettled(next, state)
            expect([...state.shards].sort()).toEqual(before)
            const names = (await next.branches.list(TENANT)).map((branch) => branch.name)
            expect(names.sort()).toEqual(['dev', 'main'])
            expect(writes).toBeLessThan(30)
          }
        }
      })
    }
  }

  test('leaves the branch that it was to replace free for other changes at once', async () => {
    const disk = new MemoryStore()
    await services(disk)
    const { branches, lifecycle, registry, tenants, timelines } = controlPlane(disk)
    await tenants.create(TENANT)
    await branches.create(TENANT, { name: 'dev' })
    const main = await registry.branch(TENANT, 'main')
    const { timelineId } = await registry.branch(TENANT, 'dev')
    const next = await branches.prepare(await registry.timeline(TENANT, main.timelineId), {
      branch: 'dev',
      lsn: parseLsn(START),
      replaces: { timelineId, keepAs: 'kept', detach: false },
    })
    await expect(lifecycle.archive(TENANT, 'dev')).rejects.toThrow('just being changed')
    await timelines.abandon(TENANT, next.timelineId)
    // What services have of it has yet to go.
    expect((await registry.timeline(TENANT, next.timelineId)).state).toBe('deleting')
    expect(await lifecycle.archive(TENANT, 'dev')).toMatchObject({ state: 'archived' })
  })

  test('does not hold up others, and one that only waits may be deleted', async () => {
    const disk = new MemoryStore()
    const state = await services(disk)
    const { branches, lifecycle, tenants, registry } = controlPlane(disk)
    const away = (code: ErrorCode) => new ZenithError(code, 'just now I cannot')
    const other = 'b'.repeat(32)
    for (const tenant of [TENANT, other]) {
      state.refusals.set(tenant, away('unavailable'))
      await expect(tenants.create(tenant)).rejects.toMatchObject({ code: 'unavailable' })
    }
    state.refusals.delete(other)
    await tenants.resume()
    expect((await tenants.list()).map((tenant) => tenant.state)).toEqual(['creating', 'active'])
    state.refusals.delete(TENANT)
    await tenants.resume()
    // What a pageserver answers that is starting, that has lost the tenant, and one with a bug.
    for (const code of ['unavailable', 'not_found', 'fenced', 'internal'] as const) {
      state.refusals.set(TENANT, away(code)).set(other, away(code))
      for (const tenant of [TENANT, other]) {
        const failed = branches.create(tenant, { name: code.replace('_', '-') })
        await expect(failed).rejects.toMatchObject({ code })
      }
    }
    state.refusals.delete(other)
    await branches.resume()
    const states = async (tenant: string) => (await branches.list(tenant)).map((one) => one.state)
    expect(await states(TENANT)).toEqual(['active', ...Array(4).fill('creating')])
    expect(await states(other)).toEqual(Array(5).fill('active'))
    await expect(lifecycle.delete(TENANT, 'main', { evenMain: true })).rejects.toThrow('children')
    await lifecycle.delete(TENANT, 'internal', {})
    state.refusals.delete(TENANT)
    await branches.resume()
    expect(await states(TENANT)).toEqual(Array(4).fill('active'))
    expect(state.shards.size).toBe((await registry.timelines()).length)
  })
})
