/** What the process on the failing disk does, and what its successor finds. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../../keyspace/key-class.ts'
import { toyRedo } from '../../tenants/testing/toy-redo.ts'
import { TenantManager } from '../../tenants/tenant-manager.ts'
import type { DeltaFiles } from '../../timeline/delta-writer.ts'
import type { Timeline } from '../../timeline/timeline.ts'

export const TENANT = '0123456789abcdef0123456789abcdef' as TenantId
export const TIMELINE = 'fedcba9876543210fedcba9876543210' as TimelineId
export const START_LSN = 0x1000000

/** A page server over the folder, which may hold what another has left. */
export async function openTenants(
  folder: string,
  generation: number,
  deltaFiles?: DeltaFiles,
): Promise<TenantManager> {
  const dataDir = join(folder, 'local')
  mkdirSync(dataDir, { recursive: true })
  const silent = { info() {}, warn() {}, error() {} } as unknown as Logger
  const tenants = new TenantManager({
    dataDir,
    objectStore: new LocalObjectStore(join(folder, 'objects')),
    ...toyRedo(),
    log: silent,
    ...(deltaFiles ? { deltaFiles } : {}),
  })
  await tenants.attach(TENANT, generation)
  return tenants
}

export function slotOf(timeline: Timeline): number {
  return timeline.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
}

export function pageOf(blk: number): Buffer {
  return Buffer.alloc(PAGE_SIZE, blk + 1)
}

/** A page of its own at `lsn`, made durable. */
export async function flushPage(timeline: Timeline, blk: number, lsn: number): Promise<void> {
  timeline.put(slotOf(timeline), blk, lsn, ValueKind.Image, pageOf(blk), 0, PAGE_SIZE)
  timeline.publish(lsn)
  await timeline.flush()
}
