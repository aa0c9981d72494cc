/** How commands fail: a sentence and the way out on standard error, and an exit code by kind. */
import { styleText } from 'node:util'
import { type ErrorCode, errorMessage, ZenithError } from '#libs/errors.ts'

/** Exit codes, as `zenith --help` lists them. */
export const EXIT = {
  ok: 0,
  failure: 1,
  usage: 2,
  notFound: 3,
  refused: 4,
  timeout: 5,
} as const

const EXIT_OF_CODE: Readonly<Partial<Record<ErrorCode, number>>> = {
  invalid_argument: EXIT.usage,
  out_of_range: EXIT.usage,
  not_found: EXIT.notFound,
  already_exists: EXIT.refused,
  conflict: EXIT.refused,
  fenced: EXIT.refused,
  precondition_failed: EXIT.refused,
  timeout: EXIT.timeout,
}

/** Prints an error, as JSON when JSON was asked for, and returns the exit code. */
export function reportFailure(error: unknown, options: { json: boolean }): number {
  const known = error instanceof ZenithError ? error : null
  const hint = known?.hint === undefined ? undefined : asTyped(known.hint)
  const message = asTyped(errorMessage(error))
  if (options.json) {
    const code = known?.code ?? 'internal'
    process.stderr.write(`${JSON.stringify({ error: { code, message, hint } })}\n`)
  } else {
    const title = styleText('red', 'error:', { stream: process.stderr })
    // Only a bug is worth a stack; for everything else the sentence is enough.
    const text = error instanceof Error && isBug(error) ? (error.stack ?? message) : message
    process.stderr.write(`${title} ${text}\n`)
    if (hint !== undefined) process.stderr.write(`${hint}\n`)
  }
  return known === null ? EXIT.failure : (EXIT_OF_CODE[known.code] ?? EXIT.failure)
}

/** Not ours to explain: what the system refused (no permission, disk full) explains itself. */
function isBug(error: Error): boolean {
  return !(error instanceof ZenithError) && (error as NodeJS.ErrnoException).syscall === undefined
}

const COMMANDS =
  'up|init|start|stop|status|tenant|pg|branch|timeline|export|import|safekeeper|storage|pageserver|auth'
const COMMAND = new RegExp(
  `(?<![\\w./])(?:\\./)?zenith (?=(?:${COMMANDS})\\b|--help|<command>)`,
  'g',
)

/** The command as the user typed it (`./zenith`), so that hints can be pasted. */
function commandName(): string {
  return process.env['ZENITH_COMMAND'] || 'zenith'
}

/** Texts say `zenith pg list`; the user gets it with the path that works where they are. */
export function asTyped(text: string): string {
  return text.replace(COMMAND, () => `${commandName()} `)
}
