/**
 * Objects as files below one folder.
 *
 * A put writes a temporary file, syncs it, then links it to its name: link(2) fails when the name
 * exists, which gives write-once without a race. A file on the same file system is linked instead
 * of copied, so layers cost no second copy; immutable files make that safe.
 */
import { constants } from 'node:fs'
import { copyFile, link, open, readdir, readFile, rm, stat, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import { makeFolder, syncFile, syncFolder } from './durable-file.ts'
import {
  checkObjectName,
  type ObjectEntry,
  type ObjectListing,
  type ObjectStore,
} from './object-store.ts'

const TEMP_MARK = '.tmp~'
let tempCount = 0

export class LocalObjectStore implements ObjectStore {
  readonly #root: string
  readonly #durableFolders = new Set<string>()

  constructor(root: string) {
    this.#root = root
  }

  async put(name: string, body: Buffer): Promise<void> {
    const { path, durable } = await this.#prepare(name)
    const temp = tempName(path)
    try {
      const file = await this.#inFolder(path, () => open(temp, 'wx'))
      try {
        await file.writeFile(body)
        // One sync of the disk's journal serves both.
        await Promise.all([syncFile(file, temp), durable])
      } finally {
        await file.close()
      }
      await this.#publish(temp, path, name)
    } catch (error) {
      await rm(temp, { force: true })
      throw error
    }
  }

  async putFile(name: string, source: string): Promise<void> {
    const { path, durable } = await this.#prepare(name)
    await Promise.all([syncPath(source), durable])
    if (await this.#inFolder(path, () => this.#linkOnce(source, path, name))) {
      await syncFolder(dirname(path))
      return
    }
    const temp = tempName(path)
    try {
      await copyFile(source, temp, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE)
      await syncPath(temp)
      await this.#publish(temp, path, name)
    } catch (error) {
      await rm(temp, { force: true })
      throw error
    }
  }

  async get(name: string): Promise<Buffer> {
    return await readFile(this.#path(name)).catch(missing(name))
  }

  async getRange(name: string, offset: number, length: number): Promise<Buffer> {
    const file = await open(this.#path(name), 'r').catch(missing(name))
    try {
      const { size } = await file.stat()
      if (offset < 0 || length < 0 || offset + length > size) {
        throw new ZenithError(
          'out_of_range',
          `bytes ${offset} to ${offset + length} lie outside object ${name} of ${size} bytes`,
        )
      }
      const bytes = Buffer.allocUnsafe(length)
      let done = 0
      while (done < length) {
        const { bytesRead } = await file.read(bytes, done, length - done, offset + done)
        if (bytesRead === 0) throw new ZenithError('corrupt', `object ${name} was cut short`)
        done += bytesRead
      }
      return bytes
    } finally {
      await file.close()
    }
  }

  async getFile(name: string, path: string): Promise<void> {
    const mode = constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE
    await copyFile(this.#path(name), path, mode).catch(missing(name))
  }

  async size(name: string): Promise<number | null> {
    const found = await stat(this.#path(name)).catch(() => null)
    return found?.isFile() ? found.size : null
  }

  async list(folder: string, options: { delimited?: boolean } = {}): Promise<ObjectListing> {
    const listing: ObjectListing = { objects: [], folders: [] }
    await this.#list(folder, options.delimited === true, listing)
    listing.objects.sort((a, b) => (a.name < b.name ? -1 : 1))
    listing.folders.sort()
    return listing
  }

  async delete(name: string): Promise<void> {
    const path = this.#path(name)
    try {
      await unlink(path)
    } catch (error) {
      if (isMissing(error)) return
      throw error
    }
    await syncFolder(dirname(path))
  }

  async deleteAll(names: readonly string[]): Promise<void> {
    const folders = new Set<string>()
    for (const name of names) {
      const path = this.#path(name)
      try {
        await unlink(path)
        folders.add(dirname(path))
      } catch (error) {
        if (!isMissing(error)) throw error
      }
    }
    for (const folder of folders) await syncFolder(folder)
  }

  async #list(folder: string, delimited: boolean, into: ObjectListing): Promise<void> {
    const path = folder === '' ? this.#root : this.#path(folder)
    const entries = await readdir(path, { withFileTypes: true }).catch((error: unknown) => {
      if (isMissing(error)) return []
      throw error
    })
    for (const entry of entries) {
      const name = folder === '' ? entry.name : `${folder}/${entry.name}`
      if (entry.isDirectory()) {
        if (delimited) into.folders.push(entry.name)
        else await this.#list(name, false, into)
      } else if (!entry.name.includes(TEMP_MARK)) {
        const found = await this.#entry(name)
        if (found) into.objects.push(found)
      }
    }
  }

  async #entry(name: string): Promise<ObjectEntry | null> {
    const sizeBytes = await this.size(name)
    return sizeBytes === null ? null : { name, sizeBytes }
  }

  #path(name: string): string {
    checkObjectName(name)
    return join(this.#root, name)
  }

  /** Makes the folder of an object; `durable` is to be awaited before the object counts. */
  async #prepare(name: string): Promise<{ path: string; durable: Promise<unknown> | undefined }> {
    const path = this.#path(name)
    const folder = dirname(path)
    if (this.#durableFolders.has(folder)) return { path, durable: undefined }
    const { durable } = await makeFolder(folder, this.#durableAbove(folder))
    return { path, durable: durable.then(() => this.#noteDurable(folder)) }
  }

  /** The nearest folder above that is known to be there whatever happens. */
  #durableAbove(folder: string): string {
    let above = dirname(folder)
    while (above.length > this.#root.length && !this.#durableFolders.has(above)) {
      above = dirname(above)
    }
    return above.length > this.#root.length ? above : this.#root
  }

  /** The folder and all between it and the root. */
  #noteDurable(folder: string): void {
    for (let at = folder; at.length > this.#root.length; at = dirname(at)) {
      this.#durableFolders.add(at)
    }
  }

  /** Runs a write into the folder of `path`; a folder removed since we made it is made again. */
  async #inFolder<T>(path: string, write: () => Promise<T>): Promise<T> {
    try {
      return await write()
    } catch (error) {
      if (!isMissing(error)) throw error
      await (await makeFolder(dirname(path), this.#root)).durable
      return await write()
    }
  }

  /** Gives a synced file its name in place of the temporary one. */
  async #publish(temp: string, path: string, name: string): Promise<void> {
    await link(temp, path).catch((error: unknown) => {
      if (hasCode(error, 'EEXIST')) throw taken(name)
      throw error
    })
    await Promise.all([syncFolder(dirname(path)), rm(temp, { force: true })])
  }

  /** False when the two paths cannot share a file, so that it must be copied. */
  async #linkOnce(source: string, path: string, name: string): Promise<boolean> {
    try {
      await link(source, path)
      return true
    } catch (error) {
      if (hasCode(error, 'EEXIST')) throw taken(name)
      if (['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP'].some((code) => hasCode(error, code))) return false
      throw error
    }
  }
}

function tempName(path: string): string {
  return `${path}${TEMP_MARK}${process.pid}-${tempCount++}`
}

async function syncPath(path: string): Promise<void> {
  const file = await open(path, 'r+')
  try {
    await syncFile(file, path)
  } finally {
    await file.close()
  }
}

function taken(name: string): ZenithError {
  return new ZenithError('already_exists', `object ${name} exists and is never overwritten`)
}

function missing(name: string): (error: unknown) => never {
  return (error) => {
    if (isMissing(error)) throw new ZenithError('not_found', `there is no object ${name}`)
    throw error
  }
}

function isMissing(error: unknown): boolean {
  return hasCode(error, 'ENOENT')
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === code
}
