/** Small durable file operations. A failed sync is fatal everywhere: see `fatalDiskError`. */
import { type FileHandle, mkdir, open, rename, rm, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Ends the process. After a failed sync the kernel may have dropped the dirty pages and would call
 * the next sync a success, so nothing this process believes about the disk can be trusted; a fresh
 * start reads back and rewrites what it finds.
 */
export function fatalDiskError(error: unknown, what: string): never {
  process.stderr.write(
    `${JSON.stringify({ level: 'fatal', msg: `${what} failed; stopping`, error: String(error) })}\n`,
  )
  process.exit(1)
}

/** Makes renames and unlinks in a folder durable. */
export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } catch (error) {
    fatalDiskError(error, `syncing folder ${path}`)
  } finally {
    await handle.close()
  }
}

/** Makes a folder that is empty; what an attempt before has left in it goes. Its parent may be missing. */
export async function makeEmptyFolder(path: string): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') await rm(path, { recursive: true })
    else if (code !== 'ENOENT') throw error
    await mkdir(path, { recursive: true })
  }
}

/** Replaces a file so that a crash leaves the old or the new contents, whole. */
export async function replaceFile(path: string, bytes: Buffer): Promise<void> {
  const temporary = `${path}.tmp`
  const handle = await open(temporary, 'w')
  try {
    await handle.writeFile(bytes)
    await syncHandle(handle, temporary)
  } finally {
    await handle.close()
  }
  await rename(temporary, path)
  await syncDirectory(dirname(path))
}

/** Writes a file into a new folder that nobody looks at yet; both are durable when this resolves. */
export async function writeFirstFile(path: string, bytes: Buffer): Promise<void> {
  const handle = await open(path, 'w')
  try {
    await handle.writeFile(bytes)
    // Side by side, one sync of the disk's journal serves both.
    await Promise.all([syncHandle(handle, path), syncDirectory(dirname(path))])
  } finally {
    await handle.close()
  }
}

export async function syncHandle(handle: FileHandle, path: string): Promise<void> {
  try {
    await handle.sync()
  } catch (error) {
    fatalDiskError(error, `syncing ${path}`)
  }
}

/** Removes a file; one that is not there is fine. */
export async function removeFile(path: string): Promise<void> {
  try {
    await unlink(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
