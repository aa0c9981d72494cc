/** What layers keep at hand, over all timelines of a page server: indexes and open files. */
import type { Layer } from './layer.ts'
import type { OpenColumn } from './layer-handles.ts'
import type { LayerBytes } from './layer-bytes.ts'
import { SecondChance } from './second-chance.ts'

/** Of columns that were read lately; about 800 bytes each. */
const MAX_LAYERS = 40_000

export class Residency {
  /** Sizes in bytes. */
  readonly indexes: SecondChance<Layer>
  /** Each counts 1. */
  readonly files: SecondChance<LayerBytes>
  /** Columns of layer maps, each counting its layers. */
  readonly columns: SecondChance<OpenColumn>

  constructor(maxIndexBytes: number, maxOpenFiles: number) {
    this.indexes = new SecondChance(maxIndexBytes, (layer) => layer.dropIndex())
    // A read that comes opens it again.
    this.columns = new SecondChance(MAX_LAYERS, (column) => column.close())
    this.files = new SecondChance(maxOpenFiles, (bytes) => void bytes.closeFile())
  }
}
