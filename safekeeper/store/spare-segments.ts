/**
 * Segment files made ahead of need: full size, zero-filled and synced, so that starting a segment or
 * a timeline is a rename, and a write into it never changes file metadata (a synced write into
 * allocated, written blocks is the cheapest the file system offers).
 */
import { mkdir, open, readdir, rename, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { removeFile, syncHandle } from './files.ts'

const READY_NAME = /^spare-\d+$/
const REFILL_DELAY_MS = 100
/** How long after a lack of space the next try is. */
const RETRY_MS = 1_000
/** A disk that is filled to the last block is no use to anybody. */
const MARGIN_BYTES = 2 * 1024 * 1024
const ZEROS = Buffer.alloc(1024 * 1024)

export class SpareSegments {
  readonly #directory: string
  readonly #wanted: number
  readonly #ready: string[] = []
  #counter = 0
  #making: Promise<void> | null = null
  #closed = false
  #failed = false

  private constructor(directory: string, wanted: number) {
    this.#directory = directory
    this.#wanted = wanted
  }

  /** Opens the pool, keeps files that are ready, and begins to fill it up to `wanted`. */
  static async open(directory: string, wanted: number): Promise<SpareSegments> {
    await mkdir(directory, { recursive: true })
    const pool = new SpareSegments(directory, wanted)
    for (const name of await readdir(directory)) {
      const path = join(directory, name)
      if (!READY_NAME.test(name)) await removeFile(path)
      else {
        pool.#ready.push(path)
        pool.#counter = Math.max(pool.#counter, Number(name.slice(6)) + 1)
      }
    }
    pool.#fill()
    return pool
  }

  /** There was no space for another segment, and none is ready. */
  get full(): boolean {
    return this.#failed && this.#ready.length === 0
  }

  get ready(): number {
    return this.#ready.length
  }

  /** Moves a zero-filled segment to `target`; the caller syncs the target's folder. */
  async take(target: string): Promise<void> {
    while (this.#ready.length === 0) {
      this.#fill()
      await this.#making
    }
    const path = this.#ready.shift() as string
    await rename(path, target)
    // Making the next one at once would slow down the syncs of whoever took this one.
    if (this.#ready.length > 0) setTimeout(() => this.#fill(), REFILL_DELAY_MS).unref()
    else this.#fill()
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#making?.catch(() => {})
  }

  #fill(): void {
    if (this.#making || this.#closed || this.#ready.length >= this.#wanted) return
    const making = this.#make()
    this.#making = making
    making.then(
      () => {
        this.#making = null
        this.#failed = false
        this.#fill()
      },
      // Whoever takes sees the error.
      () => {
        this.#making = null
        this.#failed = true
        setTimeout(() => this.#fill(), RETRY_MS).unref()
      },
    )
  }

  async #make(): Promise<void> {
    const name = `spare-${this.#counter++}`
    const temporary = join(this.#directory, `${name}.tmp`)
    await this.#checkSpace()
    try {
      await this.#writeZeros(temporary)
    } catch (error) {
      await removeFile(temporary)
      throw error
    }
    const path = join(this.#directory, name)
    await rename(temporary, path)
    this.#ready.push(path)
  }

  /** Tells without filling the disk first. */
  async #checkSpace(): Promise<void> {
    const { bavail, bsize } = await statfs(this.#directory)
    if (bavail * bsize >= WAL_SEGMENT_SIZE + MARGIN_BYTES) return
    const error = new Error(`no space for a segment in ${this.#directory}`)
    throw Object.assign(error, { code: 'ENOSPC' })
  }

  async #writeZeros(temporary: string): Promise<void> {
    const handle = await open(temporary, 'w')
    try {
      for (let offset = 0; offset < WAL_SEGMENT_SIZE; offset += ZEROS.length) {
        await handle.write(ZEROS, 0, ZEROS.length, offset)
      }
      await syncHandle(handle, temporary)
    } finally {
      await handle.close()
    }
  }
}
