/** What the main thread and the flush thread tell each other. */
import type { Lsn } from '#libs/lsn.ts'
import type { SlotTableDescription } from '../keyspace/slot-table.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { LayerOwner } from '../layers/layer-format.ts'
import type { LayerDescription } from '../layers/open-layer.ts'
import type { ThreadError } from './thread-error.ts'

export interface FlushRequest {
  id: number
  layer: LayerDescription
  slots: SlotTableDescription
  endLsn: Lsn
  owner: LayerOwner
  generation: number
  /** Of the file, which must not exist. */
  path: string
}

export interface FlushAnswer {
  id: number
  /** Null when the layer holds no version, or with an error. */
  entry: LayerEntry | null
  error: ThreadError | null
}
