/**
 * The own tests of extensions of others, on Zenith:
 *
 *   npm run test:extensions                            pgvector and PostGIS
 *   npm run test:extensions -- pgvector                one of them
 *   npm run test:extensions -- postgis --only affine   some tests
 *
 * Options: --safekeepers N (1), --vanilla (stock Postgres of the same build instead), --no-oracle
 * (don't compare pages afterwards, docs/byte-oracle.md), --verbose. The last line is
 * `<n> passed, <m> failed`, where pages that differ count as one failure; then the exit code is 1.
 */
import { parseArgs } from 'node:util'
import { EXTENSIONS } from '../../scripts/setup/extension-versions.ts'
import { failSetUp } from '../../scripts/setup/progress.ts'
import { byteOracle } from '../oracle/byte-oracle.ts'
import { runExtension } from './run-extension.ts'

const DIFF_LINES = 60

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    safekeepers: { type: 'string', default: '1' },
    'no-oracle': { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] },
    vanilla: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
})

try {
  const known = EXTENSIONS.map(({ name }) => name)
  const unknown = positionals.find((name) => !known.includes(name))
  if (unknown !== undefined) throw new Error(`there is no ${unknown}, only ${known.join(', ')}`)
  let passed = 0
  let failed = 0
  for (const extension of EXTENSIONS) {
    if (positionals.length > 0 && !positionals.includes(extension.name)) continue
    await using outcome = await runExtension(extension, {
      safekeepers: Number(values.safekeepers),
      vanilla: values.vanilla,
      only: values.only,
    })
    if (values.verbose) for (const name of outcome.passed) process.stdout.write(`ok ${name}\n`)
    for (const name of outcome.failed) {
      const diff = (outcome.diffs.get(name) ?? '').trimEnd().split('\n').slice(0, DIFF_LINES)
      process.stdout.write(`not ok ${name}\n${diff.map((line) => `    ${line}`).join('\n')}\n`)
    }
    if (outcome.server.zenith !== null && !values['no-oracle']) {
      const { installation, compute } = outcome.server.zenith
      using pages = await byteOracle(installation, compute)
      process.stdout.write(`${String(pages.report)}\n`)
      if (pages.report.differences.length > 0) failed++
    }
    const where = values.vanilla ? 'stock Postgres' : `Zenith, ${values.safekeepers} safekeeper(s)`
    const seconds = (outcome.durationMs / 1000).toFixed(1)
    const counts = `${outcome.passed.length} passed, ${outcome.failed.length} failed`
    const title = `${extension.name} ${extension.version} on ${where}`
    process.stdout.write(`${title}: ${counts}, ${seconds} s\n`)
    passed += outcome.passed.length
    failed += outcome.failed.length
  }
  process.stdout.write(`\n${passed} passed, ${failed} failed\n`)
  process.exit(failed > 0 || passed === 0 ? 1 : 0)
} catch (error) {
  failSetUp(error)
  process.stdout.write('\n0 passed, 1 failed\n')
  process.exit(1)
}
