/**
 * Runs one of PostgreSQL's own suites on a server of its own, and leaves that server running, with
 * all databases of the tests in it, for whoever wants to look at it next:
 *
 *   await using outcome = await runSuite({ suite: 'core' })
 *   outcome.server.zenith?.compute ...
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { giveTo } from '#libs/system-user.ts'
import { setUpTestKit } from '../../scripts/setup.ts'
import { judge, type Verdict } from './differences.ts'
import type { TestResult } from './regress-output.ts'
import { type RegressOutcome, type RegressRun, runRegress } from './regress-run.ts'
import { type Phase, planSuite, type RunPlan, type SuiteName } from './suites.ts'
import {
  startVanilla,
  startZenith,
  type SuiteServer,
  type SuiteServerOptions,
} from './suite-server.ts'

export interface SuiteOptions extends SuiteServerOptions {
  readonly suite: SuiteName
  /** Stock Postgres of the same build, on local files, instead of a Zenith. */
  readonly vanilla?: boolean
  /** Tests (core, isolation) or modules (contrib) instead of all. */
  readonly only?: readonly string[]
  readonly maxConnections?: number
  readonly onResult?: (result: TestResult) => void
}

export interface SuiteOutcome extends AsyncDisposable {
  readonly suite: SuiteName
  readonly verdict: Verdict
  readonly diffs: ReadonlyMap<string, string>
  /** Of the tests alone, without the start of the server. */
  readonly durationMs: number
  readonly server: SuiteServer
}

/** Throws when a suite could not run to its end; tests that fail are told in the verdict. */
export async function runSuite(options: SuiteOptions): Promise<SuiteOutcome> {
  const kit = await setUpTestKit()
  const dir = mkdtempSync(join(tmpdir(), 'zenith-suite-'))
  giveTo(dir)
  const start = options.vanilla === true ? startVanilla : startZenith
  const server = await start(options)
  const dispose = async (): Promise<void> => {
    await server[Symbol.asyncDispose]()
    if (process.env['ZENITH_TEST_KEEP'] !== '1') rmSync(dir, { recursive: true, force: true })
  }
  try {
    const outcomes: RegressOutcome[] = []
    let durationMs = 0
    for (const phase of planSuite(options.suite, kit, options.only)) {
      if (Object.keys(phase.settings).length > 0) await server.restart(phase.settings)
      const startMs = Date.now()
      outcomes.push(...(await runPhase(phase, { kit, dir, server, suite: options })))
      durationMs += Date.now() - startMs
    }
    const results = outcomes.flatMap((one) => one.results)
    const diffs = new Map(outcomes.flatMap((one) => [...one.diffs]))
    const verdict = judge(results, diffs)
    return {
      suite: options.suite,
      verdict,
      diffs,
      durationMs,
      server,
      [Symbol.asyncDispose]: dispose,
    }
  } catch (error) {
    const logs = server.logs()
    await dispose()
    throw new Error(`the ${options.suite} suite broke off: ${String(error)}\n${logs}`, {
      cause: error,
    })
  }
}

interface Surroundings {
  readonly kit: string
  readonly dir: string
  readonly server: SuiteServer
  readonly suite: SuiteOptions
}

async function runPhase(phase: Phase, around: Surroundings): Promise<RegressOutcome[]> {
  const waiting = [...phase.runs]
  const outcomes: RegressOutcome[] = []
  const work = async (): Promise<void> => {
    for (let plan = waiting.shift(); plan !== undefined; plan = waiting.shift()) {
      outcomes.push(await runRegress(completeRun(plan, around)))
    }
  }
  await Promise.all(Array.from({ length: phase.atOnce }, work))
  return outcomes
}

function completeRun(plan: RunPlan, { kit, dir, server, suite }: Surroundings): RegressRun {
  const kind = plan.program === 'pg_regress' ? 'regress' : 'isolation'
  const { maxConnections, onResult } = suite
  return {
    ...plan,
    outputDir: join(dir, `${plan.name}-${kind}`),
    libDir: join(kit, 'lib'),
    address: server.address(),
    ...(maxConnections === undefined ? {} : { maxConnections }),
    ...(onResult === undefined ? {} : { onResult }),
  }
}
