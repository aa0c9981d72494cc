/**
 * Bounds what things hold together, by letting go of what was not used lately. A use only sets a
 * flag, so it costs nothing; when there is too much, things are passed in the order in which they
 * came, those used since the last pass are spared once, and the others go.
 */
export interface Evictable {
  /** Set at each use. */
  wasUsed: boolean
}

export class SecondChance<T extends Evictable> {
  readonly #max: number
  readonly #letGo: (thing: T) => void
  readonly #sizes = new Map<T, number>()
  #total = 0
  #evicted = 0

  constructor(max: number, letGo: (thing: T) => void) {
    this.#max = max
    this.#letGo = letGo
  }

  /** Size of all that is held. */
  get total(): number {
    return this.#total
  }

  get count(): number {
    return this.#sizes.size
  }

  /** How often something was let go. */
  get evicted(): number {
    return this.#evicted
  }

  /** The thing holds so much now. Others may go, it does not. */
  add(thing: T, size: number): void {
    this.remove(thing)
    thing.wasUsed = true
    this.#sizes.set(thing, size)
    this.#total += size
    this.#shrink(thing)
  }

  /** It holds nothing any more. */
  remove(thing: T): void {
    this.#total -= this.#sizes.get(thing) ?? 0
    this.#sizes.delete(thing)
  }

  #shrink(spared: T): void {
    for (const [thing, size] of this.#sizes) {
      if (this.#total <= this.#max || this.#sizes.size === 1) return
      if (thing === spared || thing.wasUsed) {
        if (thing !== spared) thing.wasUsed = false
        // To the end, where the walk comes to it again.
        this.#sizes.delete(thing)
        this.#sizes.set(thing, size)
        continue
      }
      this.remove(thing)
      this.#evicted++
      this.#letGo(thing)
    }
  }
}
