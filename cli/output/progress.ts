/** One line on standard error that says how far long work is; nothing where nobody watches. */

const SHOW_EVERY_MS = 500
const UNITS = ['B', 'kB', 'MB', 'GB', 'TB']

/** `12.3 MB`; units of 1000. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  for (; value >= 1000 && unit < UNITS.length - 1; unit += 1) value /= 1000
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit]}`
}

export class Progress {
  readonly #title: string
  readonly #totalBytes: number | null
  #shownAt = 0
  #shown = false

  constructor(title: string, totalBytes: number | null) {
    this.#title = title
    this.#totalBytes = totalBytes
  }

  show(bytes: number, totalBytes: number | null = this.#totalBytes, title = this.#title): void {
    const now = performance.now()
    if (!process.stderr.isTTY || now - this.#shownAt < SHOW_EVERY_MS) return
    this.#shownAt = now
    this.#shown = true
    const total = totalBytes === null || totalBytes === 0 ? '' : ` of ${formatBytes(totalBytes)}`
    const share =
      totalBytes === null || totalBytes === 0
        ? ''
        : ` (${Math.min(99, Math.floor((100 * bytes) / totalBytes))} %)`
    process.stderr.write(`\r\u001b[K${title}: ${formatBytes(bytes)}${total}${share}`)
  }

  end(): void {
    if (this.#shown) process.stderr.write('\r\u001b[K')
    this.#shown = false
  }
}
