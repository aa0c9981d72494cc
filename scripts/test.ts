/**
 * `npm test`: brings the machine up (as `zenith up` does), runs the checks and every test. The last
 * line printed is `<n> passed, <m> failed`, with `, <k> skipped` where some were.
 *
 *   npm test                    everything
 *   npm test -- libs/wal        test files whose path contains that, without the checks
 *   npm test -- --project unit  other options go to vitest
 *   npm run test:all            everything with a quorum of three safekeepers and more simulations,
 *                               and then what needs Postgres once more with a server that checks
 *                               its own assertions
 *
 * Environment: ZENITH_RECORD_DURATIONS=1 writes how long each file took, which orders later runs.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { runChecks } from './check.ts'
import { setUp, setUpTestKit } from './setup.ts'
import { failSetUp } from './setup/progress.ts'
import { durationsOf, type TimedReport } from './test-durations.ts'
import { type Counts, countResults, summaryLine, type VitestReport } from './test-summary.ts'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** The long mode. Files may be named, as for `npm test`. */
async function testLong(args: readonly string[]): Promise<Counts> {
  process.env['ZENITH_TEST_LONG'] = '1'
  process.env['ZENITH_TEST_SAFEKEEPERS'] = '3'
  const quorum = await testAll(args)
  process.env['ZENITH_TEST_SAFEKEEPERS'] = '1'
  process.env['ZENITH_POSTGRES_ASSERTIONS'] = '1'
  await setUp()
  const asserted = await runVitest(['--project', 'pg', ...args])
  return {
    passed: quorum.passed + asserted.passed,
    failed: quorum.failed + asserted.failed,
    skipped: quorum.skipped + asserted.skipped,
  }
}

async function testAll(args: readonly string[]): Promise<Counts> {
  const checks = args.length === 0 ? await runChecks() : []
  const failedChecks = checks.filter(({ passed }) => !passed).length
  const tests = await runVitest(args)
  return {
    passed: tests.passed + checks.length - failedChecks,
    failed: tests.failed + failedChecks,
    skipped: tests.skipped,
  }
}

async function runVitest(args: readonly string[]): Promise<Counts> {
  const folder = mkdtempSync(join(tmpdir(), 'zenith-test-'))
  const reportFile = join(folder, 'report.json')
  try {
    const vitest = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs')
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`]
    const command = [vitest, 'run', ...reporters, ...args]
    const child = spawn(process.execPath, command, { cwd: ROOT, stdio: 'inherit' })
    const code = await new Promise<number>((resolve) => {
      child.on('error', () => resolve(1))
      child.on('close', (exit) => resolve(exit ?? 1))
    })
    const report = existsSync(reportFile)
      ? (JSON.parse(readFileSync(reportFile, 'utf8')) as VitestReport & TimedReport)
      : null
    if (report !== null && args.length === 0 && process.env['ZENITH_RECORD_DURATIONS'] === '1') {
      const table = join(ROOT, 'test_runner', 'schedule', 'durations.json')
      writeFileSync(table, `${JSON.stringify(durationsOf(report, ROOT), null, 2)}\n`)
    }
    return countResults(report, code)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

try {
  if (process.argv.length > 2) await setUp()
  else await setUpTestKit()
  const [mode, ...rest] = process.argv.slice(2)
  const counts = mode === '--all' ? await testLong(rest) : await testAll(process.argv.slice(2))
  process.stdout.write(`\n${summaryLine(counts)}\n`)
  // Nothing may keep the process, or print, after the last line.
  process.exit(counts.failed > 0 || counts.passed === 0 ? 1 : 0)
} catch (error) {
  failSetUp(error)
  process.stdout.write(`\n${summaryLine({ passed: 0, failed: 1, skipped: 0 })}\n`)
  process.exit(1)
}
