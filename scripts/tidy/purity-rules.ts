/**
 * Pure files decide and do nothing else: no clock, disk, network, process, timer or randomness, so
 * that the simulator runs them as they are. They are known by their path.
 */
import { matchesGlob } from 'node:path'
import { withoutComments } from './import-rules.ts'
import { lineOf, type Problem, type SourceFile } from './source-file.ts'

export const PURE_FILES: readonly string[] = [
  'libs/lsn.ts',
  'libs/wal/**/*.ts',
  'safekeeper/acceptor*.ts',
  'safekeeper/store/*-plan.ts',
  'safekeeper/store/wal-lead.ts',
  'safekeeper/store/local-segments.ts',
  'safekeeper/acceptor/**/*.ts',
  'safekeeper/offload/{offload-plan,segment-uploads,tail-backups,uploader-choice,backoff,wal-objects}.ts',
  'safekeeper/peers/peer-table.ts',
  'safekeeper/peers/peer-recovery.ts',
  'control/membership/membership.ts',
  'control/membership/migration.ts',
  'compute/proposer/core*.ts',
  'compute/proposer/core/**/*.ts',
  'pageserver/layers/layer-map*.ts',
  'scripts/tidy/*-rules.ts',
]

/** Built-in modules without effects. */
const PURE_MODULES = ['node:buffer', 'node:path', 'node:assert', 'node:util', 'node:zlib']

const NODE_IMPORT = /(?:\bfrom|\bimport)\s*\(?\s*['"](node:[^'"]+)['"]/g
const EFFECT =
  /\bDate\.now\b|\bnew Date\(\)|\bMath\.random\b|\bset(?:Timeout|Interval|Immediate)\b|\bperformance\.now\b|\bprocess\.|\bTemporal\.Now\b|\bconsole\.|\bfetch\(/g

export function purityProblems(file: SourceFile): Problem[] {
  if (file.path.endsWith('.test.ts')) return []
  if (!PURE_FILES.some((glob) => matchesGlob(file.path, glob))) return []
  const code = withoutComments(file.text)
  const problems: Problem[] = []
  const add = (offset: number, what: string): void => {
    const message = `is a file of pure decisions but uses ${what}`
    problems.push({ path: file.path, line: lineOf(file.text, offset), message })
  }
  for (const match of code.matchAll(NODE_IMPORT)) {
    const name = match[1] ?? ''
    if (!PURE_MODULES.includes(name)) add(match.index, name)
  }
  for (const match of code.matchAll(EFFECT)) add(match.index, match[0])
  return problems
}
