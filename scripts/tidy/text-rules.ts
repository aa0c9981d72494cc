/** House rules about names, sizes and words that no other tool checks. */
import { posix } from 'node:path'
import { withoutComments } from './import-rules.ts'
import { lineOf, type Problem, type SourceFile } from './source-file.ts'

const MAX_LINES = 700
const MAX_TEST_LINES = 1000

/** Files that may be longer, each with its reason. */
const LONG_FILES: Readonly<Record<string, string>> = {}

const VAGUE_NAMES = /^(utils?|helpers?|common|misc|shared|stuff)$/

const KEBAB_CASE = /^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z]+)*\.ts$/

/** Put together from parts, so that this file does not contain what it forbids. */
const FORBIDDEN: readonly { readonly pattern: RegExp; readonly why: string }[] = [
  {
    pattern: new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'].join('|')})\\b`),
    why: 'an open end: finish it, or write an issue',
  },
  {
    pattern: new RegExp(
      `(?<![\\w.])/(${['wo' + 'rk/(main|shared)', 'tmp/bo' + 'ot'].join('|')})\\b`,
    ),
    why: 'a path of one machine',
  },
  {
    pattern: new RegExp(
      [
        'registry\\.npm' + 'js',
        'deb\\.deb' + 'ian\\.org',
        'ftp\\.post' + 'gresql',
        'py' + 'pi\\.org',
      ].join('|'),
    ),
    why: 'the name of a package host: machines configure their own',
  },
]

export function textProblems(file: SourceFile): Problem[] {
  const problems = wordProblems(file)
  if (file.path.endsWith('.ts')) problems.push(...nameProblems(file), ...sizeProblems(file))
  if (file.path === 'package-lock.json') problems.push(...lockProblems(file))
  return problems
}

function wordProblems(file: SourceFile): Problem[] {
  const problems: Problem[] = []
  for (const { pattern, why } of FORBIDDEN) {
    const match = pattern.exec(file.text)
    if (match === null) continue
    const message = `contains "${match[0]}", ${why}`
    problems.push({ path: file.path, line: lineOf(file.text, match.index), message })
  }
  return problems
}

function nameProblems(file: SourceFile): Problem[] {
  const { path } = file
  const problems: Problem[] = []
  const name = posix.basename(path)
  if (name === 'index.ts')
    problems.push({ path, message: 'is a barrel: name files after what they define' })
  else if (!KEBAB_CASE.test(name)) problems.push({ path, message: 'is not named in kebab-case' })
  for (const part of path.replace(/\.ts$/, '').split('/')) {
    if (VAGUE_NAMES.test(part))
      problems.push({ path, message: `"${part}" says nothing: name the thing` })
  }
  const code = withoutComments(file.text)
  const reExports = /^export\s+(type\s+)?(\*|\{[^}]*\})[^;\n]*\bfrom\b.*$/gm
  const rest = code.replace(reExports, '').trim()
  if (code.trim() !== '' && rest === '') {
    problems.push({ path, message: 'only exports what other files define: import from those' })
  }
  return problems
}

function sizeProblems(file: SourceFile): Problem[] {
  const { path } = file
  if (LONG_FILES[path] !== undefined) return []
  const limit = path.endsWith('.test.ts') ? MAX_TEST_LINES : MAX_LINES
  const lines = file.text.split('\n').length - 1
  return lines > limit
    ? [{ path, message: `has ${lines} lines, ${limit} are the limit: split it` }]
    : []
}

/** The lock file must work with every mirror, so it carries checksums but no addresses. */
function lockProblems(file: SourceFile): Problem[] {
  const at = file.text.indexOf('"resolved"')
  if (at < 0) return []
  const message = 'names package addresses: write it with omit-lockfile-registry-resolved'
  return [{ path: file.path, line: lineOf(file.text, at), message }]
}
