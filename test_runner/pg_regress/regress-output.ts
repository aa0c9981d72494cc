/** What pg_regress and pg_isolation_regress print and leave behind. Pure. */

export interface TestResult {
  readonly name: string
  readonly passed: boolean
  readonly durationMs: number
}

/** `ok 12        + boolean                                   123 ms`, and `not ok ...`. */
const RESULT_LINE = /^(not )?ok \d+\s+[-+] (.+?)\s+(\d+) ms$/

/** `diff -U3 <expected> <results>`, which begins the part of one test in regression.diffs. */
const DIFF_START = /^diff .* (\S+)\/results\/(\S+)\.out$/

/** The result on a line of output, or null for any other line. */
export function parseResultLine(line: string): TestResult | null {
  const match = RESULT_LINE.exec(line)
  if (match === null) return null
  const [, failed, name = '', durationMs] = match
  return { name, passed: failed === undefined, durationMs: Number(durationMs) }
}

/** From the text of regression.diffs to one text per test. */
export function splitDiffs(text: string): Map<string, string> {
  const found = new Map<string, string>()
  let name: string | null = null
  let lines: string[] = []
  const end = (): void => {
    if (name !== null) found.set(name, `${found.get(name) ?? ''}${lines.join('\n')}\n`)
    lines = []
  }
  for (const line of text.replace(/\n$/, '').split('\n')) {
    const start = DIFF_START.exec(line)
    if (start === null) {
      if (name !== null) lines.push(line)
      continue
    }
    end()
    name = start[2] ?? ''
  }
  end()
  return found
}

/**
 * A diff without what differs from run to run: file names, times, line numbers, LSNs, process ids,
 * and the given texts (paths, ports), longest first.
 */
export function normalizeDiff(diff: string, variable: Readonly<Record<string, string>>): string {
  let text = diff
    .split('\n')
    .filter((line) => !/^(---|\+\+\+) \S+\t/.test(line))
    .map((line) => line.replace(/^@@ .* @@.*$/, '@@'))
    .map((line) => line.replace(/\b[0-9A-F]{1,8}\/[0-9A-F]{1,8}\b/g, '<lsn>'))
    .map((line) => line.replace(/^(.active_pid *\|) \d+$/, '$1 <pid>'))
    .join('\n')
  const texts = Object.keys(variable).sort((a, b) => b.length - a.length)
  for (const one of texts) text = text.replaceAll(one, variable[one] as string)
  return text
}
