/**
 * Which version of each row of a delta needs nothing older, as a distance in LSNs. Mostly it is the
 * row's first one or there is none, which two bits tell; the distances of all others lie one after the
 * other, and how many of them come before a row is counted from the last of every 32 rows on.
 */

const ROWS = 32

export class RowBases {
  /** One bit for a row: it has such a version. */
  readonly #some: Uint32Array
  /** It is not the first one. */
  readonly #later: Uint32Array
  /** How many such rows there are before those of each word. */
  readonly #before: Uint32Array
  readonly #distances: Uint32Array

  /** `first` are distances of the first versions; `distanceOf` gives -1 for none. */
  constructor(first: Uint32Array, distanceOf: (row: number) => number) {
    const words = Math.ceil(first.length / ROWS)
    this.#some = new Uint32Array(words)
    this.#later = new Uint32Array(words)
    this.#before = new Uint32Array(words)
    const distances: number[] = []
    for (let row = 0; row < first.length; row++) {
      const word = row >>> 5
      const bit = 1 << (row & 31)
      if ((row & 31) === 0) this.#before[word] = distances.length
      const distance = distanceOf(row)
      if (distance < 0) continue
      this.#some[word] = (this.#some[word] as number) | bit
      if (distance === first[row]) continue
      this.#later[word] = (this.#later[word] as number) | bit
      distances.push(distance)
    }
    this.#distances = Uint32Array.from(distances)
  }

  /** Memory held. */
  get sizeBytes(): number {
    return 4 * (3 * this.#some.length + this.#distances.length)
  }

  /** -1 = none. */
  distance(row: number, first: Uint32Array): number {
    const word = row >>> 5
    const bit = 1 << (row & 31)
    if (((this.#some[word] as number) & bit) === 0) return -1
    const later = this.#later[word] as number
    if ((later & bit) === 0) return first[row] as number
    return this.#distances[(this.#before[word] as number) + ones(later & (bit - 1))] as number
  }
}

/** How many bits of 32 are set. */
function ones(word: number): number {
  let sum = word - ((word >>> 1) & 0x55555555)
  sum = (sum & 0x33333333) + ((sum >>> 2) & 0x33333333)
  return Math.imul((sum + (sum >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}
