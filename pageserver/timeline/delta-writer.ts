/** Writes a frozen layer as a delta file: temporary name, sync, rename, sync the folder. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import { renameDurably } from '#libs/object-store/durable-file.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { LayerOwner } from '../layers/layer-format.ts'
import { LayerKind, layerName } from '../layers/layer-name.ts'
import { LayerWriter } from '../layers/layer-writer.ts'
import type { OpenLayer } from '../layers/open-layer.ts'

let tempCount = 0

export interface DeltaTarget {
  folder: string
  owner: LayerOwner
  generation: number
  slots: SlotTable
  /** Called between the sync and the rename. */
  onWritten?: () => void
}

/** Null when the layer holds no version. */
export async function writeDelta(
  memory: OpenLayer,
  endLsn: Lsn,
  target: DeltaTarget,
): Promise<LayerEntry | null> {
  const { slots, folder } = target
  const bySlot = memory.keysBySlot()
  const order = [...bySlot.keys()].sort((a, b) => slots.compare(a, b))
  if (order.length === 0) return null
  const id = {
    kind: LayerKind.Delta,
    firstKey: MIN_KEY,
    lastKey: MAX_KEY,
    startLsn: memory.startLsn,
    endLsn,
    floorLsn: memory.startLsn,
    generation: target.generation,
  }
  const path = join(folder, layerName(id))
  const temp = `${path}.tmp~${tempCount++}`
  const writer = await LayerWriter.create(temp, id, target.owner, slots)
  try {
    for (const slot of order) await writeSlot(memory, slot, bySlot.get(slot) as Uint32Array, writer)
    const entry = await writer.finish()
    target.onWritten?.()
    await renameDurably(temp, path)
    return entry
  } catch (error) {
    await writer.abort()
    await rm(temp, { force: true })
    throw error
  }
}

async function writeSlot(
  memory: OpenLayer,
  slot: number,
  keys: Uint32Array,
  writer: LayerWriter,
): Promise<void> {
  for (const key of keys) {
    const blk = memory.keyBlk(key)
    // A hot key may have hundreds of thousands of versions: other work runs in between.
    const versions = memory.versionsOf(key)
    for (let index = versions.length - 1; index >= 0; index--) {
      const version = versions[index] as number
      if (memory.writeVersion(version, slot, blk, writer)) await writer.pump()
    }
  }
}
