/**
 * Checks the house rules that no other tool knows: import borders, pure files, names, sizes,
 * forbidden words. Run as a part of `npm run check`.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { importProblems } from './tidy/import-rules.ts'
import { purityProblems } from './tidy/purity-rules.ts'
import type { Problem, SourceFile } from './tidy/source-file.ts'
import { textProblems } from './tidy/text-rules.ts'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const MAX_SIZE_BYTES = 2_000_000

/** Patches quote Postgres, whose words are its own; results of programs are not written by us. */
const NOT_OURS = /^pgxn\/patches\/|^LICENSE$|\/expected\//

/** Its strings are examples of what is wrong. */
const BAD_EXAMPLES = 'scripts/tidy.test.ts'

/** A checker that sees no files would be content with everything. */
const MIN_FILES = 20

export function problemsOf(file: SourceFile): Problem[] {
  const problems = textProblems(file)
  if (file.path.endsWith('.ts')) problems.push(...importProblems(file), ...purityProblems(file))
  return problems
}

/** The text files that git knows or would add. */
export function sourceFiles(root: string): SourceFile[] {
  const args = ['ls-files', '-z', '--cached', '--others', '--exclude-standard']
  const listed = spawnSync('git', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 })
  if (listed.status !== 0) throw new Error(`git ls-files failed: ${listed.stderr}`)
  const files: SourceFile[] = []
  for (const path of listed.stdout.split('\0')) {
    if (path === '' || path === BAD_EXAMPLES || NOT_OURS.test(path)) continue
    const stat = statSync(join(root, path), { throwIfNoEntry: false })
    if (stat === undefined || !stat.isFile() || stat.size > MAX_SIZE_BYTES) continue
    const text = readFileSync(join(root, path), 'utf8')
    if (!text.includes('\0')) files.push({ path, text })
  }
  return files
}

if (import.meta.main) {
  const files = sourceFiles(ROOT)
  const problems = files.flatMap(problemsOf)
  for (const { path, line, message } of problems) {
    console.log(`${path}${line === undefined ? '' : `:${line}`} ${message}`)
  }
  if (files.length < MIN_FILES) console.log(`tidy saw only ${files.length} files: it is broken`)
  if (problems.length > 0 || files.length < MIN_FILES) process.exitCode = 1
}
