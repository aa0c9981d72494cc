/**
 * All layers of a timeline in the order a read visits them: highest end LSN first, at equal ends
 * images before deltas. Layers are immutable and the array is replaced, never changed, so a reader
 * that holds it sees one consistent state.
 */
import type { Lsn } from '#libs/lsn.ts'
import { compareKeys } from '../keyspace/key.ts'
import type { Layer } from './layer.ts'
import { LayerKind } from './layer-name.ts'

export class LayerMap {
  readonly newestFirst: readonly Layer[]

  /** Deltas of all keys, newest first. */
  readonly l0: readonly Layer[]

  constructor(layers: readonly Layer[]) {
    this.newestFirst = layers.toSorted(
      (a, b) =>
        b.endLsn - a.endLsn || b.id.kind - a.id.kind || compareKeys(a.id.firstKey, b.id.firstKey),
    )
    this.l0 = this.newestFirst.filter((layer) => layer.isL0)
  }

  /** `removed` holds keys of layers (`Layer.key`). */
  with(added: readonly Layer[], removed: ReadonlySet<string> = new Set()): LayerMap {
    return new LayerMap([...this.newestFirst.filter((layer) => !removed.has(layer.key)), ...added])
  }

  /** LSN of the newest set of image layers, 0 when there is none. */
  get newestImageLsn(): Lsn {
    return this.newestFirst.find((layer) => layer.id.kind === LayerKind.Image)?.id.startLsn ?? 0
  }

  /** LSNs of the sets of image layers, newest first. */
  get imageLsns(): Lsn[] {
    const images = this.newestFirst.filter((layer) => layer.id.kind === LayerKind.Image)
    return [...new Set(images.map((layer) => layer.id.startLsn))]
  }

  /** Delta layers that start above the newest images: what every read of the tip may visit. */
  get deltasAboveImages(): Layer[] {
    const imageLsn = this.newestImageLsn
    return this.newestFirst.filter(
      (layer) => layer.id.kind === LayerKind.Delta && layer.id.startLsn > imageLsn,
    )
  }
}
