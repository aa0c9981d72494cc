/** A layer as plans see it: made for one plan, from its descriptor, without anything to read it by. */
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import { layerKey } from './layer.ts'
import type { LayerId } from './layer-name.ts'
import { LayerFlag, type LayerTable } from './layer-table.ts'

export class LayerShape {
  readonly id: LayerId
  /** Exclusive end of the versions that count. */
  readonly endLsn: Lsn
  readonly sizeBytes: number
  readonly isL0: boolean
  readonly origin: TimelineId | null
  readonly splitFrom: TenantId | undefined
  /** Rewriting it alone would not make it smaller. */
  readonly isSettled: boolean
  /** Of the map as it is now; see `LayerMap.layerOf`. */
  readonly row: number

  constructor(table: LayerTable, row: number) {
    const { id, origin, splitFrom } = table.entry(row)
    this.id = id
    this.endLsn = table.endLsn(row)
    this.sizeBytes = table.sizeBytes(row)
    this.isL0 = table.isL0(row)
    this.origin = origin
    this.splitFrom = splitFrom
    this.isSettled = table.has(row, LayerFlag.Settled)
    this.row = row
  }

  /** As `Layer.key`. */
  get key(): string {
    return layerKey(this)
  }
}
