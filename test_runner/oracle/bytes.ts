/** Index of the first byte from `from` on in which two buffers of equal length differ, or -1. */
export function firstDifference(one: Buffer, other: Buffer, from = 0): number {
  for (let at = from; at < one.length; at++) if (one[at] !== other[at]) return at
  return -1
}
