/** What lies on disk below a folder, files linked twice counted once. */
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

export function bytesBelow(folder: string, keep: (name: string) => boolean = () => true): number {
  const seen = new Set<number>()
  let bytes = 0
  for (const entry of listed(folder)) {
    if (!keep(entry)) continue
    // A file may go while it is looked for.
    const found = statSync(join(folder, entry), { throwIfNoEntry: false })
    if (!found?.isFile() || seen.has(found.ino)) continue
    seen.add(found.ino)
    bytes += found.size
  }
  return bytes
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true }) as string[]
  } catch {
    return []
  }
}
