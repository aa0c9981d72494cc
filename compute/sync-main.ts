/**
 * Syncs the safekeepers of a timeline without a compute: an election recovers and commits what a
 * quorum holds. `node compute/sync-main.ts --spec spec.json` prints `{"lsn":"0/1609610"}`, the end.
 * It fences a compute that still writes.
 */
import { readFileSync } from 'node:fs'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import { useCredentials } from '#libs/auth/credentials.ts'
import { createLogger } from '#libs/log.ts'
import { formatLsn } from '#libs/lsn.ts'
import { specPath } from './spec.ts'
import { createProposer } from './proposer-of-spec.ts'
import { computeCredentials } from './safekeeper-access.ts'

const log = createLogger('sync')
try {
  const spec = JSON.parse(readFileSync(specPath(), 'utf8')) as ComputeSpec
  useCredentials(computeCredentials(spec, log))
  const proposer = createProposer(spec, log)
  const { startLsn, term } = await proposer.elect()
  log.info({ timelineId: spec.timelineId, term, lsn: formatLsn(startLsn) }, 'safekeepers synced')
  process.stdout.write(`${JSON.stringify({ lsn: formatLsn(startLsn) })}\n`)
  await proposer.stop()
  process.exit(0)
} catch (error) {
  log.fatal({ err: error }, 'syncing failed')
  process.exit(1)
}
