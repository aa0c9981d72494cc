/** The WAL of a timeline as the safekeepers' folders hold it. */
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

const SEGMENT = /^([0-9A-F]{24})(\.partial)?$/

/** The folder below `root` that holds the longest WAL of the timeline. */
export function walFolder(root: string, timelineId: string): string {
  const newest = new Map<string, string>()
  for (const path of readdirSync(root, { recursive: true }) as string[]) {
    const name = SEGMENT.exec(basename(path))?.[0]
    if (name === undefined || !path.includes(timelineId)) continue
    const folder = dirname(join(root, path))
    if (name > (newest.get(folder) ?? '')) newest.set(folder, name)
  }
  const [best] = [...newest].sort(([, a], [, b]) => (a < b ? 1 : -1))
  if (best === undefined) throw new Error(`no WAL of ${timelineId} below ${root}`)
  return best[0]
}

/** The segments under the names of whole ones, as pg_waldump wants them. */
export function linkSegments(walDir: string, folder: string): void {
  mkdirSync(folder)
  for (const name of readdirSync(walDir)) {
    const match = SEGMENT.exec(name)
    if (match) symlinkSync(join(walDir, name), join(folder, match[1] as string))
  }
}
