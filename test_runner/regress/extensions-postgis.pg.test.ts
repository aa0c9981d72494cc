/**
 * PostGIS' own tests. Building it and running them takes minutes, so this is for `npm run test:all`,
 * which says how many safekeepers there are; else `npm run test:extensions -- postgis` runs them.
 */
import { expect, test } from 'vitest'
import { EXTENSIONS } from '../../scripts/setup/extension-versions.ts'
import { runExtension } from '../extensions/run-extension.ts'
import { byteOracle } from '../oracle/byte-oracle.ts'

const LONG_MODE = process.env['ZENITH_TEST_SAFEKEEPERS'] !== undefined

test.runIf(LONG_MODE)("PostGIS' own tests", { timeout: 3_600_000 }, async () => {
  const postgis = EXTENSIONS.find(({ name }) => name === 'postgis')
  if (postgis === undefined) throw new Error('PostGIS is not among the extensions')
  await using outcome = await runExtension(postgis)
  expect([...outcome.diffs.values()].join('\n')).toBe('')
  expect(outcome.failed).toEqual([])
  expect(outcome.passed.length).toBeGreaterThan(150)
  const { zenith } = outcome.server
  if (zenith === null) throw new Error('the tests did not run on a Zenith')
  using pages = await byteOracle(zenith.installation, zenith.compute)
  expect(pages.report.differences).toEqual([])
})
