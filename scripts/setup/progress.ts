/**
 * Shows what set-up does: on a terminal one line per step that is redrawn, elsewhere plain lines
 * with the elapsed time, one each 20 s, so that a CI log shows life. All goes to standard error.
 */
import { stripVTControlCharacters, styleText } from 'node:util'
import { errorMessage, ZenithError } from '#libs/errors.ts'

const REDRAW_MS = 200
const PLAIN_LINE_MS = 20_000
const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']

export class Progress {
  readonly #out = process.stderr

  /** Runs one step; `show` says how far it is ("43 %"). */
  async step<T>(title: string, run: (show: (text: string) => void) => Promise<T>): Promise<T> {
    const startMs = Date.now()
    let detail = ''
    const draw = (): void => this.#draw(title, detail, startMs)
    if (!this.#out.isTTY) this.#out.write(`${title}...\n`)
    const timer = setInterval(draw, this.#out.isTTY ? REDRAW_MS : PLAIN_LINE_MS)
    try {
      const result = await run((text) => {
        detail = text
      })
      this.#end(styleText('green', '✔', { stream: this.#out }), `${title}: ${elapsed(startMs)}`)
      return result
    } catch (error) {
      this.#end(styleText('red', '✖', { stream: this.#out }), `${title}: failed`)
      throw error
    } finally {
      clearInterval(timer)
    }
  }

  note(text: string): void {
    this.#out.write(`${text}\n`)
  }

  #draw(title: string, detail: string, startMs: number): void {
    const how = detail === '' ? '' : `  ${detail}`
    const line = `${title}${how}  ${elapsed(startMs)}`
    if (!this.#out.isTTY) {
      this.#out.write(`  ${line}\n`)
      return
    }
    const frame = FRAMES[Math.floor(Date.now() / REDRAW_MS) % FRAMES.length] ?? ''
    const room = Math.max(10, (this.#out.columns ?? 80) - 3)
    this.#out.write(`\r\x1b[K${frame} ${stripVTControlCharacters(line).slice(0, room)}`)
  }

  #end(mark: string, text: string): void {
    this.#out.write(this.#out.isTTY ? `\r\x1b[K${mark} ${text}\n` : `${mark} ${text}\n`)
  }
}

/** Prints an error as a sentence with its way out, and sets the exit code. */
export function failSetUp(error: unknown): void {
  const hint = error instanceof ZenithError && error.hint !== undefined ? `${error.hint}\n` : ''
  const text = error instanceof ZenithError ? errorMessage(error) : stackOf(error)
  process.stderr.write(`\nzenith: ${text}\n${hint}`)
  process.exitCode = 1
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}

function elapsed(startMs: number): string {
  const seconds = Math.round((Date.now() - startMs) / 1000)
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`
}
