/**
 * The deletion of a tenant, with the control plane dying at each of its writes, before the write or
 * right after it, and with services that are away.
 */
import { pino } from 'pino'
import { afterEach, describe, expect, test } from 'vitest'
import type { ZenithError } from '#libs/errors.ts'
import { Moves } from '../moves/moves.ts'
import { recordKey, type TimelineRecord } from '../records.ts'
import { MemoryStore } from '../store/memory-store.ts'
import type { Store } from '../store/store.ts'
import { MortalStore } from './testing/mortal-store.ts'
import { closeServices, controlPlane, type Plane, services } from './testing/stand-ins.ts'

const TENANT = 'a'.repeat(32)
const OTHER = 'b'.repeat(32)
afterEach(closeServices)

/** main, dev and its child, with a stopped compute; and a tenant that is to stay. */
async function fill({ tenants, branches, endpoints }: Plane): Promise<void> {
  await tenants.create(TENANT)
  await branches.create(TENANT, { name: 'dev' })
  await branches.create(TENANT, { name: 'leaf', from: 'dev' })
  await endpoints.create(TENANT, { branch: 'dev' })
}

/** Everything that the store has of a tenant, but for the record that keeps its id. */
async function traces(store: Store, tenantId: string): Promise<string[]> {
  const entries = await store.range('')
  return entries
    .map(({ key }) => key)
    .filter((key) => key.includes(tenantId) && key !== recordKey.deletedTenant(tenantId))
}

const failure = (work: Promise<unknown>) =>
  work.then(
    () => null,
    (error: unknown) => error as ZenithError,
  )

describe('the deletion of a tenant', () => {
  test('goes on after the control plane died at any of its writes', async () => {
    let writes = 0
    for (let done = false; !done; writes++) {
      for (const storesLast of [false, true]) {
        const disk = new MemoryStore()
        const state = await services(disk)
        const store = new MortalStore(disk)
        const plane = controlPlane(store)
        await fill(plane)
        await plane.tenants.create(OTHER)
        const [kept] = await plane.registry.timelines(OTHER)
        const before = new Set(state.pageserver.keys())
        expect(before.size).toBe(4)
        state.objectsLeave = 1
        store.writesLeft = writes
        store.storesLast = storesLast
        const outcome = await plane.tenantDeletion.delete(TENANT, {}).catch(() => null)
        done = outcome?.state === 'deleted' && store.writesLeft >= 0
        const next = controlPlane(disk)
        const begun = (await next.registry.findTenant(TENANT))?.value.state !== 'active'
        await next.tenantDeletion.resume()
        if (!begun) {
          expect(state.safekeeper.size).toBe(4)
          continue
        }
        expect(await traces(disk, TENANT)).toEqual([])
        expect(state.tenants.has(TENANT)).toBe(false)
        expect([...state.safekeeper]).toEqual([kept?.timelineId])
        expect((await next.registry.deletedTenant(TENANT))?.untold).toEqual([])
        expect((await next.tenants.list()).map(({ tenantId }) => tenantId)).toEqual([OTHER])
        expect(await next.tenantDeletion.delete(TENANT, {})).toMatchObject({ state: 'deleted' })
        expect(await failure(next.tenants.create(TENANT))).toMatchObject({ code: 'conflict' })
        expect(writes).toBeLessThan(30)
      }
    }
    // The intent, a mark, a name and a record for each timeline, the endpoint, and the end of it.
    expect(writes).toBeGreaterThanOrEqual(12)
  })

  test('is refused for what is protected, runs, or is being changed, with the way out', async () => {
    const disk = new MemoryStore()
    await services(disk)
    const plane = controlPlane(disk)
    await fill(plane)
    const refusal = async (options: object = {}) => {
      const error = await failure(plane.tenantDeletion.delete(TENANT, options))
      expect(error?.code).toBe('conflict')
      return `${error?.message} ${error?.hint}`
    }
    await plane.lifecycle.protect(TENANT, 'leaf', true)
    expect(await refusal({ force: true })).toMatch(/"leaf" .*protected.*--even-protected/)
    await plane.lifecycle.protect(TENANT, 'leaf', false)

    const key = recordKey.timeline(TENANT, (await plane.registry.branch(TENANT, 'dev')).timelineId)
    const before = await plane.registry.change<TimelineRecord>(key, (current) => current)
    const edit = (change: Partial<TimelineRecord>) =>
      plane.registry.update<TimelineRecord>(key, () => ({ ...before, ...change }))
    const server = { host: 'db', pgPort: 5432, user: 'repl' }
    await edit({ follows: { server, slot: 's' } as NonNullable<TimelineRecord['follows']> })
    expect(await refusal({ force: true })).toContain('zenith import stop dev')
    await edit({ newSafekeepers: [1] })
    expect(await refusal({ force: true })).toContain('zenith safekeeper abort dev')
    await edit({ state: 'archiving' })
    expect(await refusal({ force: true })).toContain('just being changed')
    await edit({ state: 'archived' })

    const split = { phase: 'hold', shardCount: 2, stripeBlocks: 8, parents: [] } as const
    await plane.registry.changeTenant(TENANT, (tenant) => ({ ...tenant, split: split as never }))
    expect(await refusal({ force: true })).toContain('just being split')
    await plane.registry.changeTenant(TENANT, (tenant) => {
      const { split: gone, ...rest } = tenant
      return gone === undefined ? tenant : rest
    })

    const endpoint = recordKey.endpoint(TENANT, 'dev')
    const starting = { status: 'starting', startedAt: new Date().toISOString() }
    await plane.registry.change<object>(endpoint, (current) => ({ ...current, ...starting }))
    expect(await refusal()).toMatch(/Postgres "dev" .*zenith pg stop dev --tenant a+.*--force/)
    await plane.registry.change<object>(endpoint, (current) => ({ ...current, status: 'stopped' }))
    expect((await plane.registry.tenant(TENANT)).state).toBe('active')
    expect(await plane.tenantDeletion.delete(TENANT, {})).toMatchObject({ state: 'deleted' })
    expect(await failure(plane.tenantDeletion.delete(OTHER, {}))).toMatchObject({
      code: 'not_found',
    })
  })

  test('waits for services that are away, and nothing of it is used meanwhile', async () => {
    const disk = new MemoryStore()
    const state = await services(disk)
    const plane = controlPlane(disk)
    await fill(plane)
    closeServices()
    const begun = await plane.tenantDeletion.delete(TENANT, {})
    expect(begun).toMatchObject({ state: 'deleting', reason: expect.any(String) })
    const next = controlPlane(disk)
    await next.tenantDeletion.resume()
    expect((await next.tenants.get(TENANT)).state).toBe('deleting')
    expect(await failure(next.branches.create(TENANT, { name: 'late' }))).not.toBeNull()
    expect(await failure(next.tenants.create(TENANT))).toMatchObject({ code: 'conflict' })
    const source = { kind: 'backup', base: '/backup', wal: null } as never
    expect(await failure(next.imports.start(TENANT, { name: 'in', source }))).toMatchObject({
      code: 'conflict',
    })
    // Others have taken over; what the old ones had is not theirs to keep.
    const again = await services(disk)
    again.pageserver = state.pageserver
    again.safekeeper = state.safekeeper
    expect(await next.tenantDeletion.delete(TENANT, {})).toMatchObject({ state: 'deleted' })
    expect(await traces(disk, TENANT)).toEqual([])
  })

  test('waits for what shards of before a split have left', async () => {
    const disk = new MemoryStore()
    const state = await services(disk)
    const plane = controlPlane(disk)
    await fill(plane)
    await plane.registry.changeTenant(TENANT, (tenant) => ({ ...tenant, formerCounts: [0] }))
    state.formerLeave = 2
    expect(await plane.tenantDeletion.delete(TENANT, {})).toMatchObject({ state: 'deleted' })
    expect(state.formerLeave).toBe(-1)
    expect(await traces(disk, TENANT)).toEqual([])
  })

  test('takes what was on its way while the tenant went', async () => {
    const disk = new MemoryStore()
    await services(disk)
    const plane = controlPlane(disk)
    await fill(plane)
    const late = await plane.registry.branch(TENANT, 'leaf')
    const record = await plane.registry.timeline(TENANT, late.timelineId)
    const endpoint = await plane.registry.endpoint(TENANT, 'dev')
    expect(await plane.tenantDeletion.delete(TENANT, {})).toMatchObject({ state: 'deleted' })
    await plane.registry.update(recordKey.branch(TENANT, 'leaf'), () => late)
    await plane.registry.update(recordKey.timeline(TENANT, late.timelineId), () => record)
    await plane.registry.update(recordKey.endpoint(TENANT, 'dev'), () => endpoint)
    await controlPlane(disk).tenantDeletion.resume()
    expect(await traces(disk, TENANT)).toEqual([])
  })

  test('is told to a page server that was away and still has the tenant', async () => {
    const disk = new MemoryStore()
    const state = await services(disk)
    const plane = controlPlane(disk)
    await fill(plane)
    await plane.tenants.create(OTHER)
    expect(await plane.tenantDeletion.delete(TENANT, {})).toMatchObject({ state: 'deleted' })
    const unknown = 'c'.repeat(32)
    for (const tenantId of [TENANT, unknown]) state.tenants.add(tenantId)
    const moves = new Moves({ registry: plane.registry, log: pino({ level: 'silent' }) })
    await moves.reconcile(await plane.registry.node('pageserver', 1))
    // One that nobody knows may just be being made.
    expect([...state.tenants].sort()).toEqual([OTHER, unknown])
  })
})
