/**
 * File writes that survive a power cut: sync the data, rename, sync the folder.
 *
 * After a failed fsync the kernel may have dropped the dirty pages, so nothing known about the file
 * holds and a retry would lie. Such a failure ends the process; recovery starts from what is
 * durable.
 */
import { type FileHandle, mkdir, open, rename } from 'node:fs/promises'
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

/**
 * Makes the folder and its missing parents. They can be used when this resolves; `durable` resolves
 * when they are, from `root` down, whoever made them: another writer may have made a parent and not
 * have synced it yet. Await it before anything in the folder counts.
 */
export async function makeFolder(
  path: string,
  root: string,
): Promise<{ durable: Promise<unknown> }> {
  const first = await mkdir(path, { recursive: true })
  const made = first === undefined ? root : dirname(first)
  const top = made.length < root.length ? made : root
  const parents: string[] = []
  for (let folder = dirname(path); folder.length >= top.length; folder = dirname(folder)) {
    parents.push(folder)
    if (folder === dirname(folder)) break
  }
  const durable = Promise.all(parents.map(syncFolder))
  // Whoever fails before it waits for this has a failure to report already.
  durable.catch(() => undefined)
  return { durable }
}

/** Moves a synced file to its final name, durably. Replaces a file of that name. */
export async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to)
  await syncFolder(dirname(to))
}
