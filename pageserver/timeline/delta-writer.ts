/** Writes a frozen layer as a delta file: temporary name, sync, rename, sync the folder. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import { renameDurably } from '#libs/object-store/durable-file.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { LayerOwner } from '../layers/layer-format.ts'
import { type LayerId, LayerKind, layerName } from '../layers/layer-name.ts'
import { LayerWriter } from '../layers/layer-writer.ts'
import type { OpenLayer } from '../layers/open-layer.ts'

let tempCount = 0

export interface DeltaFile {
  /** Must not exist. */
  path: string
  endLsn: Lsn
  owner: LayerOwner
  generation: number
  slots: SlotTable
}

/** Writes such files, in some thread. */
export interface DeltaFiles {
  /** The file's bytes are durable then, its name is not; null when the layer holds no version. */
  write(memory: OpenLayer, file: DeltaFile): Promise<LayerEntry | null>
}

/** In the calling thread. */
export const LOCAL_DELTA_FILES: DeltaFiles = { write: writeDeltaFile }

export interface DeltaTarget {
  folder: string
  owner: LayerOwner
  generation: number
  slots: SlotTable
  files: DeltaFiles
  /** Called between the sync and the rename. */
  onWritten?: () => void
}

/** Null when the layer holds no version. */
export async function writeDelta(
  memory: OpenLayer,
  endLsn: Lsn,
  target: DeltaTarget,
): Promise<LayerEntry | null> {
  const { folder, generation, owner, slots, files } = target
  const path = join(folder, layerName(deltaId(memory, endLsn, generation)))
  const temp = `${path}.tmp~${tempCount++}`
  try {
    const entry = await files.write(memory, { path: temp, endLsn, owner, generation, slots })
    if (entry === null) return null
    target.onWritten?.()
    await renameDurably(temp, path)
    return entry
  } catch (error) {
    await rm(temp, { force: true })
    throw error
  }
}

/** As `DeltaFiles.write`. What there is of the file after an error is the caller's to remove. */
export async function writeDeltaFile(
  memory: OpenLayer,
  { path, endLsn, owner, generation, slots }: DeltaFile,
): Promise<LayerEntry | null> {
  const bySlot = memory.keysBySlot()
  const order = [...bySlot.keys()].sort((a, b) => slots.compare(a, b))
  if (order.length === 0) return null
  const id = deltaId(memory, endLsn, generation)
  const writer = await LayerWriter.create(path, id, owner, slots)
  try {
    const keyLists = order.map((slot) => bySlot.get(slot) as Uint32Array)
    await writeVersions(memory, memory.versionsInOrder(keyLists), writer)
    return await writer.finish()
  } catch (error) {
    await writer.abort()
    throw error
  }
}

function deltaId(memory: OpenLayer, endLsn: Lsn, generation: number): LayerId {
  return {
    kind: LayerKind.Delta,
    firstKey: MIN_KEY,
    lastKey: MAX_KEY,
    startLsn: memory.startLsn,
    endLsn,
    floorLsn: memory.startLsn,
    generation,
  }
}

async function writeVersions(
  memory: OpenLayer,
  versions: Uint32Array,
  writer: LayerWriter,
): Promise<void> {
  for (let at = 0; at < versions.length; ) {
    at = memory.writeVersions(versions, at, writer)
    if (writer.isBusy) await writer.pump()
  }
}
