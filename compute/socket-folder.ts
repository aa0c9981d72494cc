/**
 * A short, private folder for Postgres' Unix socket. The data folder will not do: socket paths may
 * have 107 bytes, and an installation may lie deeper than that.
 */
import { createHash } from 'node:crypto'
import { chownSync, lstatSync, mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runAs } from '#libs/system-user.ts'

/** Makes the folder, always the same one for the same endpoint; null when it cannot be had. */
export function makeSocketFolder(endpointFolder: string): string | null {
  const hash = createHash('sha256').update(endpointFolder).digest('hex').slice(0, 16)
  const folder = join(tmpdir(), `.zenith-${hash}`)
  try {
    const owner = runAs() ?? { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
    const found = lstatSync(folder, { throwIfNoEntry: false })
    if (found !== undefined) {
      // The name can be guessed, so somebody else may have taken it.
      if (!found.isDirectory() || found.uid !== owner.uid) return null
      rmSync(folder, { recursive: true })
    }
    mkdirSync(folder, { mode: 0o700 })
    chownSync(folder, owner.uid, owner.gid)
    return folder
  } catch {
    return null
  }
}

export function removeSocketFolder(folder: string | null): void {
  if (folder !== null) rmSync(folder, { recursive: true, force: true })
}
