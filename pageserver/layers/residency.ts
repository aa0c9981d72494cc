/** What layers keep at hand, over all timelines of a page server: indexes and open files. */
import type { Layer } from './layer.ts'
import type { LayerBytes } from './layer-bytes.ts'
import { SecondChance } from './second-chance.ts'

export class Residency {
  /** Sizes in bytes. */
  readonly indexes: SecondChance<Layer>
  /** Each counts 1. */
  readonly files: SecondChance<LayerBytes>

  constructor(maxIndexBytes: number, maxOpenFiles: number) {
    this.indexes = new SecondChance(maxIndexBytes, (layer) => layer.dropIndex())
    // A read that comes opens it again.
    this.files = new SecondChance(maxOpenFiles, (bytes) => void bytes.closeFile())
  }
}
