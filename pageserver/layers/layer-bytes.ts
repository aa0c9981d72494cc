/**
 * The bytes of one layer, wherever they are: the local file when there is a good one, else ranges
 * of the object. A read never waits for a whole file; one that had to go to object storage asks for
 * the file in the background, once for all that ask.
 *
 * A local file counts only when its size and its footer's checksum are those of the manifest.
 * Dropping it is safe at any time: reads under way keep the open file, later ones use the object.
 */
import { close, fstat, open, read } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { Downloads } from '../remote/downloads.ts'
import { retry } from '../remote/retry.ts'
import type { Residency } from './residency.ts'
import type { Evictable } from './second-chance.ts'
import { decodeFooter, FOOTER_SIZE, type Footer, footerCrc } from './layer-format.ts'

const openFile = promisify(open)
const closeFile = promisify(close)
const statFile = promisify(fstat)

/** A first read of an object takes so much of its end: footer and, mostly, the index. */
const TAIL_BYTES = 128 * 1024
const READ_ATTEMPTS = 5
const FIRST_RETRY_MS = 50
const NEVER = new AbortController().signal
let tempCount = 0

export interface BytesOwner {
  /** For messages. */
  readonly name: string
  readonly path: string
  readonly objectName: string
  readonly sizeBytes: number
  /** CRC of the footer. */
  readonly crc: number
  /** Whether a local file is there, as far as known; null = nothing is. It is checked before it is used. */
  isLocal: boolean | null
  /** True until the object exists: a bad file is then an error, since nothing can replace it. */
  readonly isOnlyCopy: boolean
}

export interface BytesContext {
  store: ObjectStore
  /** Brings whole files; without it they stay in object storage. */
  downloads?: Downloads
  /** Bounds open files and indexes. */
  residency?: Residency
  /** Aborted when the timeline closes. */
  signal?: AbortSignal
}

/** An open file that is closed when nobody reads it any more. */
class OpenFile {
  readonly #fd: number
  #readers = 0
  #isClosed = false
  #onIdle: (() => void) | null = null
  readonly #leave = () => {
    this.#readers--
    if (this.#readers === 0) this.#onIdle?.()
  }

  constructor(fd: number) {
    this.#fd = fd
  }

  /** True: no read may begin any more. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  read(offset: number, length: number): Promise<Buffer> {
    assert(!this.#isClosed, 'a closed layer file is not read')
    this.#readers++
    return readFully(this.#fd, offset, length, this.#leave)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    if (this.#readers > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve
      })
    }
    await closeFile(this.#fd)
  }
}

export class LayerBytes implements Evictable {
  /** The file was read since somebody looked. */
  wasUsed = false
  readonly #owner: BytesOwner
  readonly #context: BytesContext
  #file: OpenFile | null = null
  #opening: Promise<OpenFile | null> | null = null
  #fetching: Promise<void> | null = null
  #isGone = false

  constructor(owner: BytesOwner, context: BytesContext) {
    this.#owner = owner
    this.#context = context
  }

  /** Footer and index section, checked against the manifest. Throws `corrupt` or `unavailable`. */
  async readIndex(): Promise<{ footer: Footer; index: Buffer }> {
    if (!(await this.#localFile())) return this.#remoteIndex()
    const end = this.#owner.sizeBytes
    const footerBytes = await this.#readLocal(end - FOOTER_SIZE, FOOTER_SIZE)
    try {
      if (footerBytes) {
        const footer = this.#footerOf(footerBytes)
        const index = await this.#readLocal(footer.indexOffset, footer.indexStoredBytes)
        if (index) return { footer, index }
      }
    } catch (error) {
      if (this.#owner.isOnlyCopy) throw error
      await this.drop()
    }
    return this.#remoteIndex()
  }

  /** Exactly these bytes. Throws `corrupt` when they cannot exist, `unavailable` for now. */
  async read(offset: number, length: number): Promise<Buffer> {
    const file = this.#file
    let bytes: Buffer | null
    if (file && !file.isClosed) {
      // The usual case, without a promise more than it needs.
      this.wasUsed = true
      try {
        bytes = await file.read(offset, length)
      } catch (error) {
        bytes = await this.#giveUp(error)
      }
    } else bytes = await this.#readLocal(offset, length)
    if (bytes) return bytes
    this.#wantFile()
    return this.readObject(offset, length)
  }

  /** Null when there is no local file, or none that can be read. */
  async #readLocal(offset: number, length: number): Promise<Buffer | null> {
    for (;;) {
      const file = this.#file ?? (await this.#localFile())
      if (!file) return null
      if (file.isClosed) continue
      this.wasUsed = true
      try {
        return await file.read(offset, length)
      } catch (error) {
        return this.#giveUp(error)
      }
    }
  }

  /** The local file cannot be read: it goes, unless nothing can replace it. */
  async #giveUp(error: unknown): Promise<null> {
    if (this.#owner.isOnlyCopy) throw this.#corrupt(errorMessage(error))
    await this.drop()
    return null
  }

  /** As `read`, past the local file. */
  async readObject(offset: number, length: number): Promise<Buffer> {
    const { store } = this.#context
    const { objectName, name } = this.#owner
    try {
      return await this.#retry(() => store.getRange(objectName, offset, length))
    } catch (error) {
      throw this.#unreadable(name, error)
    }
  }

  /** Resolves when the file is on local disk; throws when it cannot be brought there. */
  async makeLocal(): Promise<void> {
    if (await this.#localFile()) return
    await this.#fetch()
  }

  /** Takes the file from local disk, if it is there. */
  async drop(): Promise<void> {
    await this.#opening
    const file = this.#takeFile()
    this.#owner.isLocal = false
    await rm(this.#owner.path, { force: true })
    await file?.close()
  }

  /** Closes the file; it is opened again when it is read. */
  async closeFile(): Promise<void> {
    await this.#opening
    const file = this.#takeFile()
    await file?.close()
  }

  /** Ends everything; with `remove` the file goes, and never comes back. */
  async close(options: { remove: boolean }): Promise<void> {
    this.#isGone = true
    await this.#fetching?.catch(() => undefined)
    await this.closeFile()
    // A layer that leaves the map may never have been uploaded.
    if (options.remove) await this.drop()
  }

  #takeFile(): OpenFile | null {
    const file = this.#file
    this.#file = null
    this.#context.residency?.files.remove(this)
    return file
  }

  #localFile(): Promise<OpenFile | null> {
    if (this.#file) return Promise.resolve(this.#file)
    if (this.#owner.isLocal === false || this.#isGone) return Promise.resolve(null)
    this.#opening ??= this.#open().finally(() => {
      this.#opening = null
    })
    return this.#opening
  }

  /** Null when there is no good local file; a bad one goes. */
  async #open(): Promise<OpenFile | null> {
    const { path, sizeBytes } = this.#owner
    let file: OpenFile
    try {
      const fd = await openFile(path, 'r')
      file = new OpenFile(fd)
      const { size } = await statFile(fd)
      if (size !== sizeBytes) throw new ZenithError('corrupt', 'the file has another size')
    } catch (error) {
      // Too many open files, say: the object serves as long as it lasts.
      if (isMissing(error) || error instanceof ZenithError) this.#owner.isLocal = false
      if (error instanceof ZenithError) await rm(path, { force: true })
      return null
    }
    this.#owner.isLocal = true
    this.#file = file
    this.#context.residency?.files.add(this, 1)
    return file
  }

  async #checkedFooter(file: OpenFile): Promise<Footer> {
    const { sizeBytes } = this.#owner
    return this.#footerOf(await file.read(sizeBytes - FOOTER_SIZE, FOOTER_SIZE))
  }

  #footerOf(bytes: Buffer): Footer {
    const { sizeBytes, crc } = this.#owner
    const footer = decodeFooter(bytes)
    if (footer && footerCrc(bytes) === crc && footer.fileBytes === sizeBytes) return footer
    throw this.#corrupt('the footer is not the one that was written')
  }

  async #remoteIndex(): Promise<{ footer: Footer; index: Buffer }> {
    const { sizeBytes } = this.#owner
    const tailStart = Math.max(0, sizeBytes - TAIL_BYTES)
    const tail = await this.readObject(tailStart, sizeBytes - tailStart)
    const footer = this.#footerOf(tail.subarray(tail.length - FOOTER_SIZE))
    const { indexOffset, indexStoredBytes } = footer
    const missing = Math.min(Math.max(0, tailStart - indexOffset), indexStoredBytes)
    const from = indexOffset + missing - tailStart
    const rest = tail.subarray(from, from + indexStoredBytes - missing)
    if (missing === 0) return { footer, index: rest }
    return { footer, index: Buffer.concat([await this.readObject(indexOffset, missing), rest]) }
  }

  /** In the background, and only as far as there is room. */
  #wantFile(): void {
    const { downloads } = this.#context
    if (this.#fetching || this.#isGone || !downloads?.mayFetch(this.#owner)) return
    this.#fetch().catch((error: unknown) => downloads.failed(this.#owner, error))
  }

  #fetch(): Promise<void> {
    this.#fetching ??= this.#download().finally(() => {
      this.#fetching = null
    })
    return this.#fetching
  }

  async #download(): Promise<void> {
    const { store, downloads } = this.#context
    const { objectName, path } = this.#owner
    if (!downloads) throw new ZenithError('unsupported', 'layers are not downloaded here')
    await downloads.run(this.#owner, async () => {
      if (this.#isGone) return
      await mkdir(dirname(path), { recursive: true })
      const temp = `${path}.fetch~${tempCount++}`
      try {
        await this.#retry(async () => {
          await rm(temp, { force: true })
          await store.getFile(objectName, temp)
        })
        await this.#checkFile(temp)
        // Not synced: what a power cut leaves is checked like any other file.
        await rename(temp, path)
      } catch (error) {
        await rm(temp, { force: true })
        throw this.#unreadable(this.#owner.name, error)
      }
      this.#owner.isLocal = true
    })
  }

  /** Size and footer; each chunk's checksum is looked at when it is read. */
  async #checkFile(path: string): Promise<void> {
    const fd = await openFile(path, 'r')
    const file = new OpenFile(fd)
    try {
      const { size } = await statFile(fd)
      if (size !== this.#owner.sizeBytes) {
        throw this.#corrupt(`the object has ${size} bytes in place of ${this.#owner.sizeBytes}`)
      }
      await this.#checkedFooter(file)
    } finally {
      await file.close()
    }
  }

  #retry<T>(work: () => Promise<T>): Promise<T> {
    return retry(work, {
      signal: this.#context.signal ?? NEVER,
      attempts: READ_ATTEMPTS,
      firstMs: FIRST_RETRY_MS,
    })
  }

  #unreadable(name: string, error: unknown): ZenithError {
    const isFinal =
      error instanceof ZenithError && ['not_found', 'out_of_range', 'corrupt'].includes(error.code)
    return new ZenithError(
      isFinal ? 'corrupt' : 'unavailable',
      `layer ${name} cannot be fetched from object storage: ${errorMessage(error)}`,
      { cause: error },
    )
  }

  #corrupt(what: string): ZenithError {
    const { name, path, objectName } = this.#owner
    return new ZenithError('corrupt', `layer ${name} is damaged: ${what}`, {
      hint: `Compare ${path} with the object ${objectName}.`,
    })
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === 'ENOENT'
}

/** `onEnd` is called when the file is no longer used, whatever comes of it. */
function readFully(
  fd: number,
  position: number,
  length: number,
  onEnd: () => void,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const bytes = Buffer.allocUnsafeSlow(length)
    let done = 0
    const fail = (error: Error) => {
      onEnd()
      reject(error)
    }
    const step = () => {
      read(fd, bytes, done, length - done, position + done, (error, bytesRead) => {
        if (error) return fail(error)
        done += bytesRead
        if (done < length) {
          if (bytesRead > 0) step()
          else fail(new ZenithError('corrupt', 'a layer file ends too early'))
          return
        }
        onEnd()
        resolve(bytes)
      })
    }
    step()
  })
}
