/**
 * File writes that survive a power cut: sync the data, rename, sync the folder.
 *
 * After a failed fsync the kernel may have dropped the dirty pages, so nothing known about the file
 * holds and a retry would lie. Such a failure ends the process; recovery starts from what is
 * durable.
 */
import { type FileHandle, mkdir, open, rename, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { errorMessage } from '#libs/errors.ts'

function dieOfSync(what: string, error: unknown): never {
  process.stderr.write(
    `{"level":60,"msg":"fsync of ${what} failed, stopping: ${errorMessage(error)}"}\n`,
  )
  process.exit(70)
}

/** fdatasync; a failure ends the process. */
export async function syncFile(file: FileHandle, path: string): Promise<void> {
  try {
    await file.datasync()
  } catch (error) {
    dieOfSync(path, error)
  }
}

/** Makes names created, renamed or removed in the folder durable; a failure ends the process. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } catch (error) {
    dieOfSync(path, error)
  } finally {
    await folder.close()
  }
}

/** Makes the folder and its missing parents, durably. */
export async function makeFolder(path: string): Promise<void> {
  const existing = await stat(path).catch(() => null)
  if (existing?.isDirectory()) return
  const first = await mkdir(path, { recursive: true })
  if (first === undefined) return
  const top = dirname(first)
  for (let folder = dirname(path); folder.length >= top.length; folder = dirname(folder)) {
    await syncFolder(folder)
    if (folder === dirname(folder)) break
  }
}

/** Moves a synced file to its final name, durably. Replaces a file of that name. */
export async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to)
  await syncFolder(dirname(to))
}
