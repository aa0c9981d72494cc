/** Which of PostgreSQL's own tests make up a suite, and on which server each part runs. */
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { KIT_LIST, type KitSuite } from '../../scripts/setup/test-kit.ts'
import type { RegressRun } from './regress-run.ts'

export const SUITES = ['core', 'isolation', 'contrib'] as const
export type SuiteName = (typeof SUITES)[number]

export type RunPlan = Pick<
  RegressRun,
  'name' | 'program' | 'inputDir' | 'database' | 'loadExtensions' | 'schedule' | 'tests'
>

/** Runs that want the same settings of the server. */
export interface Phase {
  readonly settings: Readonly<Record<string, string>>
  readonly runs: readonly RunPlan[]
  /** How many of them go on at once. */
  readonly atOnce: number
}

/** Modules of contrib that are left out, each with its reason. */
const LEFT_OUT: Readonly<Record<string, string>> = {}

/** The phases of a suite. `only` names tests (core, isolation) or modules (contrib). */
export function planSuite(suite: SuiteName, kit: string, only: readonly string[] = []): Phase[] {
  if (suite === 'contrib') return planContrib(readKit(kit), kit, only)
  const folder = join(kit, 'src', 'test', suite === 'core' ? 'regress' : 'isolation')
  const run: RunPlan = {
    name: suite,
    program: suite === 'core' ? 'pg_regress' : 'pg_isolation_regress',
    inputDir: folder,
    database: suite === 'core' ? 'regression' : 'isolation_regression',
    ...(only.length > 0 ? { tests: only } : scheduled(suite, folder)),
  }
  return [{ settings: {}, runs: [run], atOnce: 1 }]
}

/** As `make installcheck-parallel`, and `make installcheck-prepared-txns` for the isolation tests. */
function scheduled(suite: 'core' | 'isolation', folder: string): Partial<RunPlan> {
  if (suite === 'core') return { schedule: join(folder, 'parallel_schedule') }
  return {
    schedule: join(folder, 'isolation_schedule'),
    tests: ['prepared-transactions', 'prepared-transactions-cic'],
  }
}

function planContrib(suites: readonly KitSuite[], kit: string, only: readonly string[]): Phase[] {
  const plain: RunPlan[] = []
  const phases: Phase[] = []
  for (const suite of suites) {
    const name = moduleName(suite)
    if (only.length > 0 ? !only.includes(name) : LEFT_OUT[name] !== undefined) continue
    const runs = runsOf(suite, kit)
    if (Object.keys(suite.settings).length === 0) plain.push(...runs)
    else phases.push({ settings: suite.settings, runs, atOnce: 1 })
  }
  const first = plain.length > 0 ? [{ settings: {}, runs: plain, atOnce: 2 }] : []
  return [...first, ...phases]
}

function moduleName({ folder }: KitSuite): string {
  return folder === 'src/pl/plpgsql/src' ? 'plpgsql' : basename(folder)
}

/** A database for each, so that all of them are there afterwards for whoever looks at pages. */
function runsOf(suite: KitSuite, kit: string): RunPlan[] {
  const name = moduleName(suite)
  const inputDir = join(kit, suite.folder)
  const runs: RunPlan[] = []
  if (suite.regress.length > 0) {
    const tests = suite.regress
    const database = `contrib_regression_${name}`
    runs.push({ name, program: 'pg_regress', inputDir, database, tests })
  }
  if (suite.isolation.length > 0) {
    const { isolation: tests, isolationExtensions: loadExtensions } = suite
    const database = `isolation_regression_${name}`
    runs.push({ name, program: 'pg_isolation_regress', inputDir, database, loadExtensions, tests })
  }
  return runs
}

function readKit(kit: string): KitSuite[] {
  return JSON.parse(readFileSync(join(kit, KIT_LIST), 'utf8')) as KitSuite[]
}
