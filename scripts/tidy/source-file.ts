/** What the tidy rules look at: a text file of the work tree, and one thing wrong with it. */
export interface SourceFile {
  /** Relative to the project, with slashes. */
  readonly path: string
  readonly text: string
}

export interface Problem {
  readonly path: string
  /** From 1; absent when the file as a whole is meant. */
  readonly line?: number
  readonly message: string
}

export function lineOf(text: string, offset: number): number {
  let line = 1
  for (let at = text.indexOf('\n'); at >= 0 && at < offset; at = text.indexOf('\n', at + 1))
    line += 1
  return line
}
