import { InlineRule } from './inline-rule.ts'

/**
 * Bounds how many timelines write to the disk at once, first come, first served. Each write keeps a
 * thread of Node's pool busy for a sync; what is left over serves reads, control files and the rest.
 */
export class WriteSlots {
  /** For all of them together, since it asks whether one timeline writes alone. */
  readonly inlineRule = new InlineRule()
  #free: number
  /** Those that wait, from `#head` on. */
  #waiting: (() => void)[] = []
  #head = 0

  constructor(count: number) {
    this.#free = count
  }

  get waiting(): number {
    return this.#waiting.length - this.#head
  }

  /** Calls `start` at once, or when its turn has come. It must `release` afterwards. */
  acquire(start: () => void): void {
    if (this.#free === 0) {
      this.#waiting.push(start)
      return
    }
    this.#free -= 1
    start()
  }

  release(): void {
    if (this.waiting === 0) {
      this.#free += 1
      return
    }
    const next = this.#waiting[this.#head] as () => void
    this.#head += 1
    if (this.#head === this.#waiting.length || this.#head > 1024) {
      this.#waiting = this.#waiting.slice(this.#head)
      this.#head = 0
    }
    next()
  }
}
