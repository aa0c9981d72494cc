/**
 * Runs the own tests of somebody else's extension (pgvector, PostGIS) on a Zenith whose Postgres has
 * it installed, and leaves the compute running:
 *
 *   await using outcome = await runExtension(extension)
 *   expect(outcome.failed).toEqual([])
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { giveTo } from '#libs/system-user.ts'
import type { ExtensionRelease } from '../../scripts/setup/extension-versions.ts'
import { type ReadyExtension, setUpExtension } from '../../scripts/setup-extension.ts'
import { runRegress } from '../pg_regress/regress-run.ts'
import { startVanilla, startZenith, type SuiteServer } from '../pg_regress/suite-server.ts'
import { runPostgisTests } from './postgis-run.ts'

export interface ExtensionOptions {
  /** Default as for all tests (test_runner/fixtures/installation.ts). */
  readonly safekeepers?: number
  /** Stock Postgres on local files instead of a Zenith. */
  readonly vanilla?: boolean
  /** Some tests instead of all. */
  readonly only?: readonly string[]
}

export interface ExtensionResults {
  readonly passed: readonly string[]
  readonly failed: readonly string[]
  /** What differs, by test. */
  readonly diffs: ReadonlyMap<string, string>
}

export interface ExtensionOutcome extends ExtensionResults, AsyncDisposable {
  readonly durationMs: number
  readonly server: SuiteServer
  /** Database that the tests ran in, and where it is still there. */
  readonly database: string
}

/** Where the tests of an extension run. */
export interface Surroundings {
  readonly ready: ReadyExtension
  readonly server: SuiteServer
  readonly database: string
  /** A folder that the system user may write to. */
  readonly dir: string
  readonly only: readonly string[]
}

const RUNS: Readonly<Record<string, (around: Surroundings) => Promise<ExtensionResults>>> = {
  pgvector: runPgvectorTests,
  postgis: runPostgisTests,
}

/** Throws when the tests could not be run to their end. */
export async function runExtension(
  extension: ExtensionRelease,
  options: ExtensionOptions = {},
): Promise<ExtensionOutcome> {
  const run = RUNS[extension.name]
  if (run === undefined) throw new Error(`nobody knows how to test ${extension.name}`)
  const ready = await setUpExtension(extension)
  const usual = process.env['ZENITH_POSTGRES_PREFIX']
  process.env['ZENITH_POSTGRES_PREFIX'] = ready.prefix
  const dir = mkdtempSync(join(tmpdir(), 'zenith-extension-'))
  giveTo(dir)
  const restore = (): void => {
    if (usual === undefined) delete process.env['ZENITH_POSTGRES_PREFIX']
    else process.env['ZENITH_POSTGRES_PREFIX'] = usual
    if (process.env['ZENITH_TEST_KEEP'] !== '1') rmSync(dir, { recursive: true, force: true })
  }
  const start = options.vanilla === true ? startVanilla : startZenith
  const { safekeepers } = options
  const server = await start(safekeepers === undefined ? {} : { safekeepers })
  const dispose = async (): Promise<void> => {
    await server[Symbol.asyncDispose]()
    restore()
  }
  try {
    const database = `regression_${extension.name}`
    const startMs = Date.now()
    const only = options.only ?? []
    const results = await run({ ready, server, database, dir, only })
    const durationMs = Date.now() - startMs
    return { ...results, durationMs, server, database, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    const logs = server.logs()
    await dispose()
    throw new Error(`the tests of ${extension.name} broke off: ${String(error)}\n${logs}`, {
      cause: error,
    })
  }
}

/** As its `make installcheck`. */
async function runPgvectorTests(around: Surroundings): Promise<ExtensionResults> {
  const { ready, server, database, dir, only } = around
  const inputDir = join(ready.source, 'test')
  const files = readdirSync(join(inputDir, 'sql')).filter((name) => name.endsWith('.sql'))
  const tests = files.map((name) => name.slice(0, -'.sql'.length)).sort()
  const { results, diffs } = await runRegress({
    name: 'pgvector',
    program: 'pg_regress',
    inputDir,
    outputDir: join(dir, 'pgvector'),
    libDir: join(ready.prefix, 'lib'),
    database,
    address: server.address(),
    loadExtensions: ['vector'],
    tests: only.length > 0 ? only : tests,
  })
  const named = (passed: boolean) =>
    results.filter((one) => one.passed === passed).map(({ name }) => name)
  return { passed: named(true), failed: named(false), diffs }
}
