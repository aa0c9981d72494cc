/** What a run of the byte oracle has compared and found; pure. */
import { formatLsn, type Lsn } from '#libs/lsn.ts'

/** What is compared, in the order in which counts are printed. */
const PAGE_KINDS = ['main', 'fsm', 'vm', 'init', 'slru', 'relmap', 'two-phase'] as const
export type PageKind = (typeof PAGE_KINDS)[number]

export type Comparison = 'buffers' | 'local files' | 'sizes' | 'stock replay'

export interface KindCount {
  compared: number
  /** Of those, equal only after masks. */
  masked: number
}

export interface Difference {
  comparison: Comparison
  /** `1663/16384/16385 main block 7`, or a file's name. */
  name: string
  /** What is different: from which byte on, or what is missing. */
  what: string
  /** Set for a page of a relation: its WAL can be looked up. */
  page?: { spc: number; db: number; rel: number; fork: number; block: number }
}

export class ByteReport {
  readonly lsn: Lsn
  readonly counts = new Map<Comparison, Map<PageKind, KindCount>>()
  readonly differences: Difference[] = []
  /** Seconds by step. */
  readonly seconds = new Map<string, number>()
  /** Forks whose length the compute was asked for. */
  sizes = 0
  /** Pages that were seen and not compared, by the reason. */
  readonly passedOver = new Map<string, number>()

  constructor(lsn: Lsn) {
    this.lsn = lsn
  }

  get pages(): number {
    let sum = 0
    for (const kinds of this.counts.values())
      for (const kind of kinds.values()) sum += kind.compared
    return sum
  }

  compared(comparison: Comparison, kind: PageKind, pages: number, masked = 0): void {
    const kinds = this.counts.get(comparison) ?? new Map<PageKind, KindCount>()
    this.counts.set(comparison, kinds)
    const count = kinds.get(kind) ?? { compared: 0, masked: 0 }
    kinds.set(kind, { compared: count.compared + pages, masked: count.masked + masked })
  }

  passOver(reason: string, pages = 1): void {
    this.passedOver.set(reason, (this.passedOver.get(reason) ?? 0) + pages)
  }

  differ(difference: Difference): void {
    this.differences.push(difference)
  }

  async timed<T>(step: string, work: () => Promise<T>): Promise<T> {
    const startMs = performance.now()
    try {
      return await work()
    } finally {
      this.seconds.set(step, (performance.now() - startMs) / 1000)
    }
  }

  /** The lines to print; the first one is what machines look for. */
  toString(): string {
    const lines = [
      `byte oracle: ${this.pages} pages compared, ${this.differences.length} differing ` +
        `(at ${formatLsn(this.lsn)})`,
    ]
    for (const [comparison, kinds] of this.counts) {
      const parts = PAGE_KINDS.flatMap((kind) => {
        const count = kinds.get(kind)
        if (count === undefined) return []
        const masked = count.masked === 0 ? '' : ` (${count.masked} after masks)`
        return `${count.compared} ${kind}${masked}`
      })
      lines.push(`  ${comparison}: ${parts.join(', ')}`)
    }
    if (this.sizes > 0) lines.push(`  sizes: ${this.sizes} forks`)
    if (this.passedOver.size > 0) {
      const parts = [...this.passedOver].map(([reason, pages]) => `${pages} ${reason}`)
      lines.push(`  not compared: ${parts.join(', ')}`)
    }
    const times = [...this.seconds].map(([step, seconds]) => `${step} ${seconds.toFixed(1)} s`)
    lines.push(`  time: ${times.join(', ')}`)
    for (const { comparison, name, what } of this.differences) {
      lines.push(`  ${comparison}: ${name} ${what}`)
    }
    return lines.join('\n')
  }
}
