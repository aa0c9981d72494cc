/**
 * One run of pg_regress or pg_isolation_regress, in a scratch folder, as the user that Postgres
 * runs as: the tests write files from the client as well as from the server.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { findPostgres } from '#libs/postgres-install.ts'
import { giveTo, runAs } from '#libs/system-user.ts'
import { normalizeDiff, parseResultLine, splitDiffs, type TestResult } from './regress-output.ts'

export interface RegressRun {
  /** Begins the names of its tests in reports: `core`, `hstore`. */
  readonly name: string
  readonly program: 'pg_regress' | 'pg_isolation_regress'
  /** Folder with sql/ or specs/, and expected/. */
  readonly inputDir: string
  /** Folder for its results; made here. */
  readonly outputDir: string
  /** Folder of the C functions that tests load. */
  readonly libDir: string
  readonly database: string
  readonly address: { host: string; port: number; user: string }
  readonly loadExtensions?: readonly string[]
  /** A schedule file, or tests by name, or both. */
  readonly schedule?: string
  readonly tests?: readonly string[]
  /** How many tests of a parallel group run at once; default as the schedule says. */
  readonly maxConnections?: number
  readonly onResult?: (result: TestResult) => void
}

export interface RegressOutcome {
  readonly results: readonly TestResult[]
  /** Normalized, by the full name of the test. */
  readonly diffs: ReadonlyMap<string, string>
  readonly durationMs: number
}

/** Throws when the program could not run the tests: no connection, no schedule, a crash of its own. */
export async function runRegress(run: RegressRun): Promise<RegressOutcome> {
  mkdirSync(run.outputDir, { recursive: true })
  // Some tests name their data relative to where they run.
  const data = join(run.inputDir, 'data')
  if (existsSync(data)) symlinkSync(data, join(run.outputDir, 'data'))
  giveTo(run.outputDir)
  const startMs = Date.now()
  const results: TestResult[] = []
  const output = await spawnRegress(run, (line) => {
    const parsed = parseResultLine(line)
    if (parsed === null) return
    const result = { ...parsed, name: `${run.name}/${parsed.name}` }
    results.push(result)
    run.onResult?.(result)
  })
  const durationMs = Date.now() - startMs
  // It says how many there are only when it came to the end.
  const planned = Number(/^1\.\.(\d+)$/m.exec(output)?.[1] ?? -1)
  if (planned !== results.length) {
    throw new Error(`${run.program} of ${run.name} did not run all its tests:\n${tail(output)}`)
  }
  return { results, diffs: readDiffs(run), durationMs }
}

function spawnRegress(run: RegressRun, onLine: (line: string) => void): Promise<string> {
  const { prefix } = findPostgres()
  const kind = run.program === 'pg_regress' ? 'regress' : 'isolation'
  const pgxs = existsSync(join(prefix, 'lib', 'pgxs')) ? 'lib/pgxs' : 'lib/postgresql/pgxs'
  const program = join(prefix, pgxs, 'src', 'test', kind, run.program)
  const { host, port, user } = run.address
  const args = [
    `--inputdir=${run.inputDir}`,
    `--outputdir=${run.outputDir}`,
    `--bindir=${join(prefix, 'bin')}`,
    `--dlpath=${run.libDir}`,
    `--dbname=${run.database}`,
    `--host=${host}`,
    `--port=${port}`,
    `--user=${user}`,
    '--max-concurrent-tests=20',
    ...(run.maxConnections === undefined ? [] : [`--max-connections=${run.maxConnections}`]),
    ...(run.loadExtensions ?? []).map((name) => `--load-extension=${name}`),
    ...(run.schedule === undefined ? [] : [`--schedule=${run.schedule}`]),
    ...(run.tests ?? []),
  ]
  const child = spawn(program, args, {
    cwd: run.outputDir,
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
    ...runAs(),
  })
  let output = ''
  let rest = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line)
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    output += text
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', () => resolve(output))
  })
}

/** What the caller's shell has set for his own servers and language must not reach the tests. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env)
  return Object.fromEntries(entries.filter(([name]) => !/^(PG|LC_|LANG)/.test(name)))
}

function readDiffs(run: RegressRun): Map<string, string> {
  const file = join(run.outputDir, 'regression.diffs')
  if (!existsSync(file)) return new Map()
  const variable = {
    [run.outputDir]: '<output>',
    [run.inputDir]: '<input>',
    [run.libDir]: '<lib>',
    [String(run.address.port)]: '<port>',
  }
  const diffs = splitDiffs(readFileSync(file, 'utf8'))
  return new Map(
    [...diffs].map(([test, diff]) => [`${run.name}/${test}`, normalizeDiff(diff, variable)]),
  )
}

function tail(output: string): string {
  return output.trimEnd().split('\n').slice(-20).join('\n')
}
