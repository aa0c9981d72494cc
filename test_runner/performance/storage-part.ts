/**
 * One part of `npm run bench -- --only storage`, in a process of its own, so that it can be run,
 * given precedence and profiled alone:
 *
 *   node --expose-gc test_runner/performance/storage-part.ts engine '{"scale":10,"seconds":5}'
 *
 * Rows of the report go to standard output as JSON.
 */
import { Report } from './report.ts'
import { measureAttach } from './storage-attach.ts'
import { measureChurn } from './storage-churn.ts'
import { measureEngine } from './storage-engine.ts'
import { measureLimits } from './storage-limits.ts'
import { measureHeld, measureMemory } from './storage-memory.ts'
import { measurePgbenchChurn } from './storage-pgbench.ts'

const [part = '', options = '{}'] = process.argv.slice(2)
const sizes = { scale: 20, seconds: 12, layers: 100_000, records: 6e5, ...JSON.parse(options) }
const report = new Report()
if (part === 'limits') await measureLimits(report)
else if (part === 'engine') await measureEngine(sizes, report)
else if (part === 'churn') await measureChurn(sizes, report)
else if (part === 'attach') await measureAttach(sizes, report)
else if (part === 'memory') await measureMemory(sizes, report)
else if (part === 'held') await measureHeld(sizes.place, report)
else if (part === 'pgbench') await measurePgbenchChurn(sizes, report)
else
  throw new Error(
    `there is no part "${part}"; there are limits, engine, churn, attach, memory, pgbench`,
  )
process.stdout.write(`${JSON.stringify(report.rows())}\n`)
