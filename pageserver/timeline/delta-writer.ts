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

/** Versions brought into the cache before they are copied. */
const TOUCHED_AHEAD = 32

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
    const keyLists = order.map((slot) => bySlot.get(slot) as Uint32Array)
    await writeVersions(memory, memory.versionsInOrder(keyLists), writer)
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

async function writeVersions(
  memory: OpenLayer,
  versions: Uint32Array,
  writer: LayerWriter,
): Promise<void> {
  for (let at = 0; at < versions.length; at++) {
    if (at % TOUCHED_AHEAD === 0) memory.touch(versions, at, TOUCHED_AHEAD)
    if (memory.writeVersion(versions[at] as number, writer)) await writer.pump()
  }
}
