/**
 * All of a tenant is deleted on the page server that holds it, with a crash at every step: in the end
 * nothing is left, and on the way no timeline comes back.
 */
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { layerFolder, timelinesFolder } from '../remote/paths.ts'
import type { StorageStep } from '../timeline/storage-context.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { Tenant } from './tenant.ts'
import { type ScratchShards, ScratchServer } from './testing/scratch-server.ts'

const START_LSN = 0x2000000
const FACTS = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }

let server: ScratchServer
afterEach(() => server.stop())

function put(timeline: Timeline, round: number): void {
  const lsn = START_LSN + round * 800
  const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
  for (let blk = 0; blk < 4; blk++) {
    timeline.put(slot, blk, lsn, ValueKind.Image, Buffer.alloc(PAGE_SIZE, round), 0, PAGE_SIZE)
  }
  timeline.publish(lsn)
}

async function branch(tenant: Tenant, from: TimelineId, round: number): Promise<TimelineId> {
  const id = newTimelineId()
  const ancestorLsn = START_LSN + round * 800
  const made = await tenant.branchTimeline(id, { ancestorTimelineId: from, ancestorLsn })
  put(made, round + 1)
  await made.flush()
  return id
}

/**
 * root → middle → leaf, archived; root → detached, which took over layers of root; one that cannot
 * be opened; and what a creation left that never came to an end.
 */
async function fill(tenant: Tenant): Promise<void> {
  const root = newTimelineId()
  await tenant.createTimeline(root, FACTS, async (timeline) => put(timeline, 0))
  const middle = await branch(tenant, root, 0)
  await tenant.lives.archive(await branch(tenant, middle, 1))
  const detached = await branch(tenant, root, 0)
  const place = { ancestorTimelineId: root, ancestorLsn: START_LSN }
  await tenant.lives.detach(detached, place)
  const broken = await branch(tenant, root, 0)
  const folder = `${timelinesFolder(tenant.tenantId)}/${broken}/manifests`
  for (const { name } of (await server.store.list(folder)).objects) {
    await server.store.delete(name)
    await server.store.put(name, Buffer.from('not a manifest'))
  }
  const name = `${layerFolder(tenant.tenantId, newTimelineId())}/left-behind`
  await server.store.put(name, Buffer.from('a layer'))
}

/** As the service does it when the control plane asks. */
async function deleteAll(tenant: Tenant): Promise<number> {
  await tenant.beginEnd()
  for (;;) {
    const next = tenant.lives.nextToDelete()
    if (next === null) return await tenant.lives.emptyStorage()
    await tenant.lives.delete(next)
  }
}

const STEPS: (StorageStep | null)[] = [null, 'delete-closed', 'delete-written', 'delete-local-gone']
for (const step of STEPS) {
  for (const shards of [undefined, { count: 2, stripeBlocks: 1 }] as (
    | ScratchShards
    | undefined
  )[]) {
    const what = `${step ?? 'never'}${shards ? ' of two shards' : ''}`
    test(`a tenant is deleted with all it has, cut off at ${what}`, async () => {
      server = await ScratchServer.start({}, undefined, shards)
      for (const tenant of server.shards) await fill(tenant)
      await server.restart()
      server.errors.length = 0
      // Fewer and fewer timelines, each crash a bit later than the one before.
      for (let crash = 0; step !== null && crash < 3; crash++) {
        let left = crash
        server.onStep = (now) => {
          if (now === step && left-- === 0) throw new Error(`stop at ${step}`)
        }
        const outcome = await deleteAll(server.tenant).catch((error: Error) => error.message)
        const known = server.tenant.timelines().map(({ timelineId }) => timelineId)
        server.onStep = () => undefined
        await server.restart()
        const back = server.tenant.timelines().map(({ timelineId }) => timelineId)
        // One whose end was not written yet is there again, and no other.
        expect(back.length - known.length).toBeLessThanOrEqual(step === 'delete-closed' ? 1 : 0)
        if (typeof outcome === 'number') break
        expect(outcome).toBe(`stop at ${step}`)
      }
      for (const tenant of server.shards) {
        expect(await deleteAll(tenant)).toBeGreaterThan(0)
        const late = tenant.createTimeline(newTimelineId(), FACTS, async () => undefined)
        await expect(late).rejects.toMatchObject({ code: 'conflict' })
      }
      // Any part of what is to go may be gone when the process ends.
      for (let round = 0; round < 4; round++) {
        await server.faults.delete(server.doomed.shift() as string)
        await server.restart()
        for (const tenant of server.shards) {
          expect(tenant.timelines()).toEqual([])
          await deleteAll(tenant)
        }
      }
      let objects = 1
      for (let round = 0; objects > 0 && round < 5; round++) {
        await server.deleteDoomed()
        const counts = await Promise.all(server.shards.map(deleteAll))
        objects = counts.reduce((sum, count) => sum + count, 0)
      }
      expect((await server.store.list('')).objects).toEqual([])
      for (const { tenantId } of server.shards) {
        const local = join(server.localFolder, 'tenants', tenantId, 'timelines')
        expect((await server.localFiles()).filter((name) => name.startsWith(local))).toEqual([])
      }
      expect(server.errors.filter((text) => !text.includes('cannot be opened'))).toEqual([])
    })
  }
}

test('objects of a tenant that another page server may still read stay', async () => {
  server = await ScratchServer.start()
  await fill(server.tenant)
  await server.tenant.become('multi')
  await deleteAll(server.tenant)
  const manifests = server.doomed.filter((name) => !name.includes('/layers/'))
  expect(manifests).toEqual([])
  expect(server.doomed).toEqual([])
})
