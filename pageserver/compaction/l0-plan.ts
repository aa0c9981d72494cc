/** Which L0 layers are merged next: the oldest that lie side by side. */
import type { Lsn } from '#libs/lsn.ts'
import type { Layer } from '../layers/layer.ts'
import type { LayerMap } from '../layers/layer-map.ts'
import type { LayerShape } from '../layers/layer-shape.ts'
import { LayerKind } from '../layers/layer-name.ts'

/**
 * Runs of L0 layers that may be merged, oldest run and oldest layer first. Between two layers of a
 * run lies nothing else: a merged layer never reaches across an image or another delta, so that a
 * key's layers stay in one order of LSNs. Only layers below `durableEndLsn`, which a manifest names.
 */
export function l0Runs(layers: LayerMap, durableEndLsn: Lsn): Layer[][] {
  const l0 = layers.l0.filter((layer) => layer.endLsn <= durableEndLsn).reverse()
  if (l0.length === 0) return []
  const oldestLsn = (l0[0] as Layer).id.startLsn
  const others = layers.cutAbove(oldestLsn).reverse()
  const runs: Layer[][] = []
  let run: Layer[] = []
  let other = 0
  for (const layer of l0) {
    const before = run[run.length - 1]
    let isApart = before !== undefined && before.endLsn > layer.id.startLsn
    for (; other < others.length; other++) {
      const { endLsn, id } = others[other] as LayerShape
      // An image at the last LSN of a layer lies above it.
      const isAbove = id.kind === LayerKind.Image ? endLsn >= layer.endLsn : endLsn > layer.endLsn
      if (isAbove) break
      isApart = true
    }
    if (isApart && run.length > 0) {
      runs.push(run)
      run = []
    }
    run.push(layer)
  }
  runs.push(run)
  return runs
}

/**
 * The inputs of the next merge, at most `maxCount`; null = none. Nothing is done below `minCount`
 * layers in all. The newest run waits until it has as many itself; an older one, which cannot grow
 * any more, is merged however short it is.
 */
export function planL0(
  layers: LayerMap,
  durableEndLsn: Lsn,
  minCount: number,
  maxCount: number,
): Layer[] | null {
  if (layers.l0.length < minCount) return null
  const runs = l0Runs(layers, durableEndLsn)
  const run = runs.find((one, index) => index < runs.length - 1 || one.length >= minCount)
  return run ? run.slice(0, maxCount) : null
}
