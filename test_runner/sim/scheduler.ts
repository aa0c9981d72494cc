/** Virtual time: one heap of events, by time and then by order of scheduling, and the trace's hash. */
interface Entry {
  readonly atMs: number
  readonly order: number
  readonly run: () => void
}

const TRACE_KEPT = 400

export class Scheduler {
  #heap: Entry[] = []
  #order = 0
  nowMs = 0
  steps = 0
  #hash = 2166136261
  /** The newest events, for a failure report. */
  readonly recent: string[] = []

  after(delayMs: number, run: () => void): void {
    const entry = { atMs: this.nowMs + delayMs, order: this.#order++, run }
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

  /** Adds an event to the trace: two runs of one seed must have equal hashes. */
  trace(what: string): void {
    const line = `${this.nowMs.toFixed(3)} ${what}`
    let hash = this.#hash
    for (let index = 0; index < line.length; index += 1) {
      hash = Math.imul(hash ^ line.charCodeAt(index), 16777619)
    }
    this.#hash = hash
    this.recent.push(line)
    if (this.recent.length > 2 * TRACE_KEPT) this.recent.splice(0, TRACE_KEPT)
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
