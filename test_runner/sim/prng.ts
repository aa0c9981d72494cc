/** Seeded random numbers: xoshiro128**, with named forks so that one stream's use shifts no other's. */
export class Prng {
  readonly #state: Uint32Array
  readonly #seed: number

  constructor(seed: number) {
    this.#seed = seed >>> 0
    this.#state = new Uint32Array(4)
    let z = this.#seed
    for (let index = 0; index < 4; index += 1) {
      // splitmix32
      z = (z + 0x9e3779b9) >>> 0
      let word = z
      word = Math.imul(word ^ (word >>> 16), 0x21f0aaad)
      word = Math.imul(word ^ (word >>> 15), 0x735a2d97)
      this.#state[index] = (word ^ (word >>> 15)) >>> 0
    }
  }

  /** A stream of its own for one concern. */
  fork(name: string): Prng {
    let hash = 2166136261 ^ this.#seed
    for (let index = 0; index < name.length; index += 1) {
      hash = Math.imul(hash ^ name.charCodeAt(index), 16777619)
    }
    return new Prng(hash)
  }

  #u32(): number {
    const s = this.#state
    const [s0, s1, s2, s3] = [s[0] as number, s[1] as number, s[2] as number, s[3] as number]
    const product = Math.imul(s1, 5)
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0
    const shifted = s1 << 9
    s[2] = s2 ^ s0
    s[3] = s3 ^ s1
    s[1] = s1 ^ (s[2] as number)
    s[0] = s0 ^ (s[3] as number)
    s[2] = (s[2] as number) ^ shifted
    const w = s[3] as number
    s[3] = (w << 11) | (w >>> 21)
    return result
  }

  /** In [0, 1). */
  next(): number {
    return this.#u32() / 4294967296
  }

  /** A whole number in [min, max]. */
  int(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1))
  }

  chance(probability: number): boolean {
    return this.next() < probability
  }

  pick<T>(items: readonly T[]): T {
    return items[this.int(0, items.length - 1)] as T
  }
}
