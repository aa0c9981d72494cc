/**
 * Who may import whom. A top folder is a process or the language that processes share, and the
 * borders between them hold only if something checks: a linter sees the written path, this
 * resolves it. Type-only imports obey the same rules.
 */
import { posix } from 'node:path'
import { lineOf, type Problem, type SourceFile } from './source-file.ts'

const PROCESSES = ['pageserver', 'safekeeper', 'control', 'cli', 'compute', 'consumers']

/** Folders whose files may import anything: nothing that runs in production is in them. */
const FREE = ['test_runner']

const IMPORT = /(?:\bfrom|\bimport)\s*\(?\s*(['"])((?:\.{1,2}\/|#)[^'"]*)\1/g

export interface Import {
  readonly target: string
  /** A path from the file (`./x.ts`), not one by name (`#libs/x.ts`). */
  readonly relative: boolean
  readonly offset: number
}

/** Every relative or `#` import of a file, resolved to a path within the project. */
export function importsOf(file: SourceFile): Import[] {
  const found: Import[] = []
  for (const match of withoutComments(file.text).matchAll(IMPORT)) {
    const written = match[2] ?? ''
    const target = written.startsWith('#')
      ? written.slice(1)
      : posix.normalize(posix.join(posix.dirname(file.path), written))
    found.push({ target, relative: !written.startsWith('#'), offset: match.index })
  }
  return found
}

export function importProblems(file: SourceFile): Problem[] {
  const from = topFolder(file.path)
  const problems: Problem[] = []
  for (const { target, relative, offset } of importsOf(file)) {
    const why = objection(from, target, { relative, isTest: /\.(test|bench)\.ts$/.test(file.path) })
    if (why !== null)
      problems.push({ path: file.path, line: lineOf(file.text, offset), message: why })
  }
  return problems
}

function objection(
  from: string,
  target: string,
  how: { relative: boolean; isTest: boolean },
): string | null {
  const { relative, isTest } = how
  const to = topFolder(target)
  if (target.startsWith('..')) return `imports ${target}, which is outside the project`
  if (isEntry(target)) return `imports ${target}: entry points and tests are imported by nobody`
  if (from === to) return null
  if (FREE.includes(from) || from === '') return null
  if (FREE.includes(to) && isTest) return null
  if (FREE.includes(to)) return `imports ${target}: only tests may use ${to}/`
  if (from === 'libs') return `imports ${target}: libs/ imports only itself`
  if (to !== 'libs') return `imports ${target}: ${describe(from)} imports only libs/ and itself`
  if (relative) return `imports ${target} by a relative path: write #${target}`
  return null
}

function describe(folder: string): string {
  return PROCESSES.includes(folder) ? `the process ${folder}/` : `${folder}/`
}

function isEntry(target: string): boolean {
  return posix.basename(target) === 'main.ts' || target.endsWith('.test.ts')
}

function topFolder(path: string): string {
  const slash = path.indexOf('/')
  return slash < 0 ? '' : path.slice(0, slash)
}

/** Blanks comments, keeping offsets: an example in a docstring is no import. */
export function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/[^\n]*/g, (comment) =>
    comment.replace(/[^\n]/g, ' '),
  )
}
