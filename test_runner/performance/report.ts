/** Figures of one benchmark run: medians, ratios, a table for people and JSON for machines. */
import { cpus, totalmem } from 'node:os'

export type Subject = 'vanilla' | 'zenith'

export interface Measure {
  /** What was measured, as `tpcb, 8 clients`. */
  name: string
  unit: string
  /** Whether more is better; decides which way the ratio is written. */
  better: 'more' | 'less'
  /** How it was measured, one sentence. */
  how: string
  /** The goal for the ratio or figure, as the architecture states it; shown beside the result. */
  goal?: string
}

export interface Result extends Measure {
  samples: Partial<Record<Subject, number[]>>
}

/** Collects samples in the order they come; the same measure may be sampled many times. */
export class Report {
  readonly #results = new Map<string, Result>()

  add(measure: Measure, subject: Subject, sample: number): void {
    const result = this.#results.get(measure.name) ?? { ...measure, samples: {} }
    const samples = result.samples[subject] ?? []
    samples.push(sample)
    result.samples[subject] = samples
    this.#results.set(measure.name, result)
  }

  /** Takes in what another process has measured. */
  addAll(results: readonly Result[]): void {
    for (const { samples, ...measure } of results) {
      for (const subject of ['vanilla', 'zenith'] as const) {
        for (const sample of samples[subject] ?? []) this.add(measure, subject, sample)
      }
    }
  }

  /** Rows with the median of each side and the ratio Zenith : vanilla in the sense "1 = as good". */
  rows(): ReportRow[] {
    return [...this.#results.values()].map((result) => {
      const vanilla = median(result.samples.vanilla ?? [])
      const zenith = median(result.samples.zenith ?? [])
      const both = vanilla !== null && zenith !== null
      const ratio = both ? (result.better === 'more' ? zenith / vanilla : vanilla / zenith) : null
      return { ...result, vanilla, zenith, ratio }
    })
  }

  table(): string {
    const header = ['measure', 'unit', 'vanilla', 'zenith', 'ratio', 'goal']
    const lines = this.rows().map((row) => [
      row.name,
      row.unit,
      figure(row.vanilla),
      figure(row.zenith),
      row.ratio === null ? '-' : row.ratio.toFixed(2),
      row.goal ?? '',
    ])
    const widths = header.map((title, column) =>
      Math.max(title.length, ...lines.map((line) => (line[column] as string).length)),
    )
    const format = (line: readonly string[]) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] as number))
        .join('  ')
        .trimEnd()
    return [format(header), ...lines.map(format)].join('\n')
  }

  json(options: Record<string, unknown>): string {
    return JSON.stringify(
      {
        at: new Date().toISOString(),
        machine: { cpus: cpus().length, model: cpus()[0]?.model, memoryBytes: totalmem() },
        node: process.version,
        options,
        results: this.rows(),
      },
      null,
      2,
    )
  }
}

export interface ReportRow extends Result {
  vanilla: number | null
  zenith: number | null
  /** 1 = as good as vanilla, 2 = twice as good. */
  ratio: number | null
}

export function median(samples: readonly number[]): number | null {
  if (samples.length === 0) return null
  const sorted = [...samples].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
}

function figure(value: number | null): string {
  if (value === null) return '-'
  if (value >= 1000) return Math.round(value).toLocaleString('en-US')
  return value >= 10 ? value.toFixed(1) : value.toFixed(2)
}
