/**
 * PostgreSQL's own tests against Zenith, from the command line:
 *
 *   npm run test:pg-regress [-- options] [tests]      the core regression suite
 *   npm run test:pg-isolation [-- options] [tests]    the isolation suite
 *   npm run test:pg-contrib [-- options] [modules]    contrib and PL/pgSQL
 *
 * Options: --safekeepers N (1), --shared-buffers SIZE, --max-connections N (fewer tests at once),
 * --no-oracle (don't compare pages afterwards, docs/byte-oracle.md), --consistency (with
 * wal_consistency_checking, and every record redone and compared at the end), --file-cache (the compute's cache in a local file, as users have it), --vanilla (stock Postgres of
 * the same build instead), --compare (stock first, then Zenith, and how long each took), --verbose.
 * The last line is `<n> passed, <m> failed`; the exit code is 1 when a test failed.
 */
import { styleText, parseArgs } from 'node:util'
import { failSetUp } from '../../scripts/setup/progress.ts'
import { byteOracle } from '../oracle/byte-oracle.ts'
import {
  CONSISTENCY_SETTINGS,
  consistencyOracle,
  describeConsistency,
} from '../oracle/consistency-oracle.ts'
import { describeVerdict } from './report.ts'
import { runSuite, type SuiteOptions, type SuiteOutcome } from './run-suite.ts'
import { SUITES, type SuiteName } from './suites.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    safekeepers: { type: 'string', default: '1' },
    'shared-buffers': { type: 'string' },
    'max-connections': { type: 'string' },
    'file-cache': { type: 'boolean', default: false },
    consistency: { type: 'boolean', default: false },
    'no-oracle': { type: 'boolean', default: false },
    vanilla: { type: 'boolean', default: false },
    compare: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
})
const [suite, ...only] = positionals

interface Figures {
  passed: number
  failed: number
  /** Pages that the byte oracle found different. */
  differing: number
  ms: number
}

async function run(vanilla: boolean): Promise<Figures> {
  const options: SuiteOptions = {
    suite: suite as SuiteName,
    only,
    vanilla,
    safekeepers: Number(values.safekeepers),
    fileCache: values['file-cache'],
    ...(values.consistency ? { settings: CONSISTENCY_SETTINGS } : {}),
    ...(values['shared-buffers'] === undefined ? {} : { sharedBuffers: values['shared-buffers'] }),
    ...(values['max-connections'] === undefined
      ? {}
      : { maxConnections: Number(values['max-connections']) }),
    onResult: ({ name, passed, durationMs }) => {
      if (passed && !values.verbose) return
      // Whether the difference is a documented one is judged at the end.
      const word = passed ? 'ok' : styleText('red', 'differs')
      process.stdout.write(`${word} ${name} ${durationMs} ms\n`)
    },
  }
  await using outcome = await runSuite(options)
  const where = vanilla ? 'stock Postgres' : `Zenith, ${values.safekeepers} safekeeper(s)`
  const seconds = (outcome.durationMs / 1000).toFixed(1)
  process.stdout.write(`${describeVerdict(outcome)}${suite} on ${where}: ${seconds} s\n`)
  const { passed, failed } = outcome.verdict
  const differing = values['no-oracle'] ? 0 : await comparePages(outcome)
  return { passed: passed.length, failed: failed.length, differing, ms: outcome.durationMs }
}

/** Every page that the tests have left, against stock Postgres and the compute's memory. */
async function comparePages({ server }: SuiteOutcome): Promise<number> {
  if (server.zenith === null) return 0
  using run = await byteOracle(server.zenith.installation, server.zenith.compute)
  process.stdout.write(`${String(run.report)}\n`)
  const differing = run.report.differences.length
  if (!values.consistency) return differing
  const consistency = await consistencyOracle(server.zenith.installation, server.zenith.compute)
  process.stdout.write(`${describeConsistency(consistency)}\n`)
  return differing + consistency.faults.length
}

try {
  if (!SUITES.includes(suite as SuiteName)) throw new Error(`name a suite: ${SUITES.join(', ')}`)
  const stock = values.compare ? await run(true) : null
  const { passed, failed: failedTests, differing, ms } = await run(values.vanilla)
  // Pages that differ count as one failed test.
  const failed = failedTests + (differing > 0 ? 1 : 0)
  if (stock !== null) {
    process.stdout.write(
      `Zenith took ${(ms / stock.ms).toFixed(2)} times as long as stock Postgres\n`,
    )
  }
  process.stdout.write(`\n${passed} passed, ${failed} failed\n`)
  process.exit(failed > 0 || passed === 0 ? 1 : 0)
} catch (error) {
  failSetUp(error)
  process.stdout.write('\n0 passed, 1 failed\n')
  process.exit(1)
}
