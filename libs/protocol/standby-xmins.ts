/**
 * Horizons of hot standbys: the oldest transactions whose traces their queries may still need. Full
 * 64-bit ids (epoch and xid), 0 for none.
 */
export interface StandbyXmins {
  readonly xmin: bigint
  readonly catalogXmin: bigint
}

export const NO_XMINS: StandbyXmins = { xmin: 0n, catalogXmin: 0n }

/** The oldest of each kind. */
export function oldestXmins(all: Iterable<StandbyXmins>): StandbyXmins {
  let xmin = 0n
  let catalogXmin = 0n
  for (const one of all) {
    xmin = older(xmin, one.xmin)
    catalogXmin = older(catalogXmin, one.catalogXmin)
  }
  return { xmin, catalogXmin }
}

export function sameXmins(a: StandbyXmins, b: StandbyXmins): boolean {
  return a.xmin === b.xmin && a.catalogXmin === b.catalogXmin
}

function older(a: bigint, b: bigint): bigint {
  if (a === 0n) return b
  return b === 0n || a < b ? a : b
}
