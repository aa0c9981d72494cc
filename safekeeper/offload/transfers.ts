/** Moves WAL between this disk and object storage, and compares the two. Decides nothing. */
import type { FileHandle } from 'node:fs/promises'
import { ZenithError } from '#libs/errors.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { UploadOutcome, VerifyOutcome } from './segment-uploads.ts'

const COMPARE_BYTES = 1024 * 1024

export interface Told<T> {
  outcome: T
  /** What went wrong, for the log. */
  error: unknown
}

/**
 * Uploads what `read` gives. The bytes go through memory: the store may keep a file that it is given
 * by reference, and files of WAL can be written to again; a copy on this disk would need space just
 * when there is none and uploads are to make some.
 */
export async function upload(
  store: ObjectStore,
  name: string,
  read: () => Promise<Buffer>,
): Promise<Told<UploadOutcome>> {
  try {
    await store.put(name, await read())
    return { outcome: 'stored', error: null }
  } catch (error) {
    // Every error but a taken name leaves open whether the object is there.
    const taken = error instanceof ZenithError && error.code === 'already_exists'
    return taken ? { outcome: 'exists', error: null } : { outcome: 'unknown', error }
  }
}

/** Compares an object with the first `length` bytes of a file, piece by piece. */
export async function compareObject(
  store: ObjectStore,
  name: string,
  open: () => Promise<FileHandle>,
  length: number,
): Promise<Told<VerifyOutcome>> {
  let handle: FileHandle
  try {
    handle = await open()
  } catch (error) {
    return { outcome: 'unknown', error }
  }
  try {
    const size = await store.size(name)
    if (size !== length) return { outcome: size === null ? 'missing' : 'different', error: null }
    const mine = Buffer.allocUnsafe(COMPARE_BYTES)
    for (let offset = 0; offset < length; offset += COMPARE_BYTES) {
      const count = Math.min(COMPARE_BYTES, length - offset)
      const theirs = await store.getRange(name, offset, count)
      await readFully(handle, mine, count, offset)
      if (theirs.compare(mine, 0, count) !== 0) return { outcome: 'different', error: null }
    }
    return { outcome: 'equal', error: null }
  } catch (error) {
    const missing = error instanceof ZenithError && error.code === 'not_found'
    return missing ? { outcome: 'missing', error: null } : { outcome: 'unknown', error }
  } finally {
    await handle.close()
  }
}

/** The first `length` bytes of a file. */
export async function readStart(open: () => Promise<FileHandle>, length: number): Promise<Buffer> {
  const handle = await open()
  try {
    const bytes = Buffer.allocUnsafe(length)
    await readFully(handle, bytes, length, 0)
    return bytes
  } finally {
    await handle.close()
  }
}

/** Reads exactly `length` bytes at `position` to the start of `target`. */
async function readFully(
  handle: FileHandle,
  target: Buffer,
  length: number,
  position: number,
): Promise<void> {
  for (let done = 0; done < length; ) {
    const { bytesRead } = await handle.read(target, done, length - done, position + done)
    if (bytesRead === 0) throw new ZenithError('corrupt', 'a segment is shorter than 16 MiB')
    done += bytesRead
  }
}
