/** How many layers the read of a page (or blob) costs; an element per number, so counting is cheap. */

/** Reads of more layers count as this many. */
const MOST = 128

export class ReadStats {
  /** Reads whose data came from so many layers; 0 = from memory alone. */
  readonly visited = new Float64Array(MOST + 1)
  /** Reads that searched the indexes of so many layers. */
  readonly searched = new Float64Array(MOST + 1)

  count(visited: number, searched: number): void {
    const v = Math.min(visited, MOST)
    const s = Math.min(searched, MOST)
    this.visited[v] = (this.visited[v] as number) + 1
    this.searched[s] = (this.searched[s] as number) + 1
  }
}

/** The number of layers that the given share of the reads does not pass; 0 without reads. */
export function quantile(counts: Float64Array, share: number): number {
  const total = counts.reduce((sum, count) => sum + count, 0)
  let seen = 0
  for (const [layers, count] of counts.entries()) {
    seen += count
    if (count > 0 && seen >= share * total) return layers
  }
  return 0
}
