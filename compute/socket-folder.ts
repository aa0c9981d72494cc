/**
 * A short, private folder for Postgres' Unix socket. The data folder will not do: socket paths may
 * have 107 bytes, and an installation may lie deeper than that.
 */
import { createHash } from 'node:crypto'
import { chownSync, lstatSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runAs } from '#libs/system-user.ts'

/**
 * Makes the folder of one start of an endpoint; null when it cannot be had. Each start has its own: one
 * that was replaced removes its folder when it ends, which may be after the next one has begun.
 * What starts before this one have left behind goes.
 */
export function makeSocketFolder(endpointFolder: string, attempt: number): string | null {
  const hash = createHash('sha256').update(endpointFolder).digest('hex').slice(0, 16)
  const prefix = `.zenith-${hash}-`
  const folder = join(tmpdir(), `${prefix}${attempt}`)
  try {
    for (const name of readdirSync(tmpdir())) {
      if (!name.startsWith(prefix) || Number(name.slice(prefix.length)) >= attempt) continue
      rmSync(join(tmpdir(), name), { recursive: true, force: true })
    }
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
