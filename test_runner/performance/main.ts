/**
 * `npm run bench`: stock Postgres and Zenith, one after the other in each round, medians over the
 * rounds. Options: `--rounds N` (3), `--scale N` (50), `--seconds N` (20), `--copy-mb N` (1000),
 * `--safekeepers N` (1), `--quick` (one round of small sizes, to see that it runs). `--only wal` measures
 * the WAL service alone: appends, the disk, commits with 1 and 3 safekeepers; about 5 minutes.
 * `--only storage` measures the storage engine alone, in one round; about 5 minutes, and
 * `--only branches` the last part of that, for large `--copy-mb`. `--realtime`
 * gives its processes precedence over everything else (root only), for a machine that is busy.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { writeCopyFile } from './copy-file.ts'
import { Report } from './report.ts'
import { measureBulk, measurePgbench, type Sizes } from './sql-workloads.ts'
import { dropPageCache, startVanilla, startZenith } from './subject.ts'
import { measurePages } from './page-workload.ts'
import { measureIngest } from './ingest-workload.ts'
import { measureBranchSizes, measureStorage } from './storage-workload.ts'
import { measureWalService } from './wal-workloads.ts'
import { measureBranches } from './zenith-workloads.ts'

const RESULTS = fileURLToPath(new URL('../../bench/results', import.meta.url))

const { values } = parseArgs({
  options: {
    rounds: { type: 'string' },
    scale: { type: 'string' },
    seconds: { type: 'string' },
    'copy-mb': { type: 'string' },
    safekeepers: { type: 'string', default: '1' },
    only: { type: 'string' },
    quick: { type: 'boolean', default: false },
    realtime: { type: 'boolean', default: false },
  },
})
const pick = (given: string | undefined, quick: number, full: number) =>
  given === undefined ? (values.quick ? quick : full) : Number(given)
const wal = values.only === 'wal'
const storage = values.only === 'storage'
const branches = values.only === 'branches'
if (values.only !== undefined && !wal && !storage && !branches) {
  throw new Error('--only takes "wal", "storage" or "branches"')
}
const options = {
  rounds: pick(values.rounds, 1, 3),
  scale: pick(values.scale, 5, wal || storage ? 20 : 50),
  seconds: pick(values.seconds, 3, wal || storage ? 12 : 20),
  copyMegabytes: pick(values['copy-mb'], 50, 1000),
  safekeepers: Number(values.safekeepers),
  pageCacheDropped: dropPageCache(),
}

const say = (text: string) => process.stderr.write(`${new Date().toISOString()} ${text}\n`)
const dir = mkdtempSync(join(tmpdir(), 'zenith-bench-'))
try {
  const report = new Report()
  if (wal) await measureWalService(options, report, say)
  else if (storage)
    await measureStorage(
      { ...options, quick: values.quick, realtime: values.realtime },
      report,
      say,
    )
  else if (branches)
    await measureBranchSizes({ ...options, realtime: values.realtime }, report, say)
  else await measureAll(report)
  mkdirSync(RESULTS, { recursive: true })
  const file = join(RESULTS, `${new Date().toISOString().replaceAll(':', '-')}.json`)
  writeFileSync(file, report.json(options))
  process.stdout.write(`${report.table()}\n\nwritten to ${file}\n`)
} finally {
  rmSync(dir, { recursive: true, force: true })
}

async function measureAll(report: Report): Promise<void> {
  const copyFile = join(dir, 'bulk.tsv')
  say(`writing ${options.copyMegabytes} MB to copy`)
  const copyBytes = writeCopyFile(copyFile, options.copyMegabytes * 1e6)
  const sizes: Sizes = { ...options, copyBytes, copyFile }
  for (let round = 1; round <= options.rounds; round++) {
    {
      say(`round ${round}: stock Postgres`)
      await using server = await startVanilla()
      await measurePgbench(server, sizes, report)
      await measureBulk(server, sizes, report)
    }
    {
      say(`round ${round}: Zenith, ${options.safekeepers} safekeeper(s)`)
      await using server = await startZenith(options.safekeepers)
      if (round === 1) await measureBranches(server, report)
      await measurePgbench(server, sizes, report)
      await measurePages(server, report)
      await measureBulk(server, sizes, report)
      if (round === 1) await measureBranches(server, report)
    }
    say(`round ${round}: WAL ingest`)
    await measureIngest(sizes, report)
  }
}
