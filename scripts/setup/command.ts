/**
 * Runs the programs of set-up. All they print goes to a log file; when one fails, the error shows
 * the log's last lines and where the rest is.
 */
import { spawn } from 'node:child_process'
import { appendFileSync, closeSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { ZenithError } from '#libs/errors.ts'

export interface Command {
  /** For the error: "Building Postgres". */
  readonly what: string
  readonly command: readonly string[]
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  readonly logFile: string
  /** Gets each complete line of standard output, to show progress. */
  readonly onLine?: (line: string) => void
  /** A lock that must outlive us if we are killed while the program runs on. */
  readonly lockFd?: number
}

const ERROR_TAIL_LINES = 25

/** Variables that change how configure and make work; a build must not depend on who started it. */
const BUILD_VARIABLES = [
  'MAKEFLAGS',
  'MAKELEVEL',
  'MFLAGS',
  'CFLAGS',
  'CPPFLAGS',
  'LDFLAGS',
  'PROFILE',
]

/** Throws `internal` with the log's tail when the program fails. */
export async function runLogged(options: Command): Promise<void> {
  const [program, ...args] = options.command
  if (program === undefined) throw new ZenithError('internal', 'empty command')
  mkdirSync(dirname(options.logFile), { recursive: true })
  appendFileSync(options.logFile, `\n$ ${options.command.join(' ')}\n`)
  const log = openSync(options.logFile, 'a')
  try {
    const code = await spawnLogged(options, program, args, log)
    if (code !== 0) throw failed(options, code)
  } finally {
    closeSync(log)
  }
}

function spawnLogged(
  options: Command,
  program: string,
  args: string[],
  log: number,
): Promise<number | string> {
  const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: 'C', ...options.env }
  for (const name of BUILD_VARIABLES) {
    if (options.env?.[name] === undefined) delete env[name]
  }
  const child = spawn(program, args, {
    cwd: options.cwd,
    env,
    stdio: ['ignore', 'pipe', log, options.lockFd ?? 'ignore'],
  })
  let rest = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    appendFileSync(log, text)
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    if (options.onLine !== undefined) for (const line of lines) options.onLine(line)
  })
  return new Promise((resolve) => {
    child.on('error', (error) => {
      appendFileSync(log, `${error.message}\n`)
      resolve(error.message)
    })
    child.on('close', (code, signal) => resolve(code ?? signal ?? 1))
  })
}

function failed(options: Command, code: number | string): ZenithError {
  const lines = readFileSync(options.logFile, 'utf8').trimEnd().split('\n').slice(-ERROR_TAIL_LINES)
  const why = typeof code === 'number' ? `exit code ${code}` : code
  const tail = lines.map((line) => `    ${line}`).join('\n')
  return new ZenithError('internal', `${options.what} failed (${why}):\n\n${tail}\n`, {
    hint: `The whole log is in ${options.logFile}. Repeating the command continues where it stopped.`,
  })
}
