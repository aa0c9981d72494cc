/**
 * Folders for work that does not outlive the process: clusters that initdb makes, copies of clusters
 * that are taken in. Whoever made one removes it; what a process that was killed has left goes when
 * the next one starts.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { removeUnprivilegedDir } from '#libs/system-user.ts'

/** Removes all that lies in these folders. No other process may be using them. */
export function clearScratch(folders: readonly string[]): void {
  for (const folder of folders) {
    for (const name of namesIn(folder)) removeUnprivilegedDir(join(folder, name))
  }
}

/** None of a folder that is not there. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
