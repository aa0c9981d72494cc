/**
 * `npm run check`: types, lint, format and house rules, all at once. Prints what is wrong, and one
 * line for each that is right.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const BIN = `${ROOT}node_modules/.bin`

export interface Check {
  readonly name: string
  readonly command: readonly string[]
}

export interface CheckResult {
  readonly name: string
  readonly passed: boolean
  readonly output: string
  readonly durationMs: number
}

const CHECKS: readonly Check[] = [
  { name: 'types', command: [`${BIN}/tsc`, '-p', 'tsconfig.json'] },
  { name: 'lint', command: [`${BIN}/oxlint`, '--type-aware', '--deny-warnings'] },
  { name: 'format', command: [`${BIN}/biome`, 'format', '.'] },
  { name: 'tidy', command: [process.execPath, 'scripts/tidy.ts'] },
]

/** Runs all checks; prints each as it ends. */
export function runChecks(): Promise<CheckResult[]> {
  return Promise.all(
    CHECKS.map(async (check) => {
      const result = await runCheck(check)
      print(result)
      return result
    }),
  )
}

function runCheck({ name, command }: Check): Promise<CheckResult> {
  const [program = '', ...args] = command
  const startMs = Date.now()
  const child = spawn(program, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text))
  return new Promise((resolve) => {
    const end = (passed: boolean): void =>
      resolve({ name, passed, output, durationMs: Date.now() - startMs })
    child.on('error', (error) => {
      output += `${error.message}\n`
      end(false)
    })
    child.on('close', (code) => end(code === 0))
  })
}

function print({ name, passed, output, durationMs }: CheckResult): void {
  const seconds = (durationMs / 1000).toFixed(1)
  if (!passed) process.stdout.write(`${output.trimEnd()}\n`)
  process.stdout.write(`${passed ? 'ok     ' : 'FAILED '} ${name} (${seconds} s)\n`)
}

if (import.meta.main) {
  const results = await runChecks()
  if (results.some(({ passed }) => !passed)) process.exitCode = 1
}
