/** Virtual time: one heap of events, by time and then by order of scheduling, and the trace's hash. */
interface Entry {
  readonly atMs: number
  readonly order: number
  readonly run: () => void
}

const TRACE_KEPT = 500

/** Hashes of the words in traces; they repeat, so each is computed once. */
const wordHashes = new Map<string, number>()

function hashOf(word: string): number {
  const known = wordHashes.get(word)
  if (known !== undefined) return known
  let hash = 2166136261
  for (let index = 0; index < word.length; index += 1) {
    hash = Math.imul(hash ^ word.charCodeAt(index), 16777619)
  }
  wordHashes.set(word, hash)
  return hash
}

type Line = readonly [atMs: number, who: string, what: string, a: number, b: number]

export class Scheduler {
  #heap: Entry[] = []
  #order = 0
  nowMs = 0
  steps = 0
  #hash = 2166136261
  #lines: Line[] = []

  after(delayMs: number, run: () => void): void {
    this.at(this.nowMs + delayMs, run)
  }

  at(atMs: number, run: () => void): void {
    const entry = { atMs, order: this.#order++, run }
    const heap = this.#heap
    let index = heap.length
    heap.push(entry)
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (!before(entry, heap[parent] as Entry)) break
      heap[index] = heap[parent] as Entry
      index = parent
    }
    heap[index] = entry
  }

  /** Runs the next event; false when there is none up to `untilMs`. */
  step(untilMs: number): boolean {
    const heap = this.#heap
    const first = heap[0]
    if (first === undefined || first.atMs > untilMs) {
      this.nowMs = untilMs
      return false
    }
    const last = heap.pop() as Entry
    if (heap.length > 0) this.#sink(last)
    this.nowMs = first.atMs
    this.steps += 1
    first.run()
    return true
  }

  /**
   * Adds an event to the trace: two runs of one seed must have equal hashes. `who` and `what` are
   * words from a small set; what varies goes into the two numbers.
   */
  trace(who: string, what: string, a = 0, b = 0): void {
    let hash = this.#hash
    hash = Math.imul(hash ^ Math.round(this.nowMs * 1000), 16777619)
    hash = Math.imul(hash ^ hashOf(who), 16777619)
    hash = Math.imul(hash ^ hashOf(what), 16777619)
    hash = Math.imul(hash ^ (a % 4294967296), 16777619)
    hash = Math.imul(hash ^ (b % 4294967296), 16777619)
    this.#hash = hash
    this.#lines.push([this.nowMs, who, what, a, b])
    if (this.#lines.length > 2 * TRACE_KEPT) this.#lines.splice(0, TRACE_KEPT)
  }

  /** The newest lines of the trace, for a failure report. */
  recent(): string[] {
    return this.#lines.map(
      ([atMs, who, what, a, b]) =>
        `${atMs.toFixed(3)} ${who} ${what}${a === 0 ? '' : ` ${a}`}${b === 0 ? '' : ` ${b}`}`,
    )
  }

  get traceHash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0')
  }

  #sink(entry: Entry): void {
    const heap = this.#heap
    let index = 0
    while (true) {
      let child = 2 * index + 1
      if (child >= heap.length) break
      const right = child + 1
      if (right < heap.length && before(heap[right] as Entry, heap[child] as Entry)) child = right
      if (!before(heap[child] as Entry, entry)) break
      heap[index] = heap[child] as Entry
      index = child
    }
    heap[index] = entry
  }
}

function before(a: Entry, b: Entry): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)
}
