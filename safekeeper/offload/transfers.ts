/** Moves WAL between this disk and object storage, and compares the two. Decides nothing. */
import { constants } from 'node:fs'
import { copyFile, type FileHandle, rm } from 'node:fs/promises'
import { ZenithError } from '#libs/errors.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { UploadOutcome, VerifyOutcome } from './segment-uploads.ts'

const COMPARE_BYTES = 1024 * 1024
/** Copies of segments on their way; a crash may leave one behind. */
export const UPLOAD_SUFFIX = '.upload'

export interface Told<T> {
  outcome: T
  /** What went wrong, for the log. */
  error: unknown
}

/**
 * Uploads a finished file. A copy of it travels, not the file itself: the store may keep what it is
 * given by reference, and files of WAL can be written to again.
 */
export async function uploadFile(
  store: ObjectStore,
  name: string,
  path: string,
): Promise<Told<UploadOutcome>> {
  const copy = path + UPLOAD_SUFFIX
  return told(async () => {
    try {
      await copyFile(path, copy, constants.COPYFILE_FICLONE)
      await store.putFile(name, copy)
    } finally {
      await rm(copy, { force: true })
    }
  })
}

export function uploadBytes(
  store: ObjectStore,
  name: string,
  bytes: () => Promise<Buffer>,
): Promise<Told<UploadOutcome>> {
  return told(async () => store.put(name, await bytes()))
}

/** Every error but a taken name leaves open whether the object is there. */
async function told(put: () => Promise<void>): Promise<Told<UploadOutcome>> {
  try {
    await put()
    return { outcome: 'stored', error: null }
  } catch (error) {
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
  let handle: FileHandle | null = null
  try {
    const size = await store.size(name)
    if (size !== length) return { outcome: size === null ? 'missing' : 'different', error: null }
    handle = await open()
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
    await handle?.close()
  }
}

/** Reads exactly `length` bytes at `position` to the start of `target`. */
export async function readFully(
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
