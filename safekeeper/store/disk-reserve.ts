/**
 * A file that only takes space. When the disk is full it is given up, so that control files can
 * still be replaced: without that a vote, or the removal that would make room, could not go on.
 */
import { open, stat } from 'node:fs/promises'
import { removeFile } from './files.ts'

const RESERVE_BYTES = 1024 * 1024

export class DiskReserve {
  readonly #path: string
  #present = false
  #changing: Promise<unknown> = Promise.resolve()

  private constructor(path: string) {
    this.#path = path
  }

  /** Makes the file unless it is there; a disk without space is no error. */
  static async open(path: string): Promise<DiskReserve> {
    const reserve = new DiskReserve(path)
    const size = await stat(path).then(
      ({ size }) => size,
      () => 0,
    )
    reserve.#present = size === RESERVE_BYTES
    await reserve.refill()
    return reserve
  }

  get present(): boolean {
    return this.#present
  }

  /** Frees the space. False when it is free already. */
  release(): Promise<boolean> {
    return this.#change(async () => {
      if (!this.#present) return false
      this.#present = false
      await removeFile(this.#path)
      return true
    })
  }

  /** Takes the space again when there is some. */
  refill(): Promise<boolean> {
    return this.#change(async () => {
      if (this.#present) return true
      this.#present = await this.#make()
      return this.#present
    })
  }

  async #make(): Promise<boolean> {
    try {
      const handle = await open(this.#path, 'w')
      try {
        await handle.writeFile(Buffer.alloc(RESERVE_BYTES))
      } finally {
        await handle.close()
      }
      return true
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
      await removeFile(this.#path)
      return false
    }
  }

  #change(action: () => Promise<boolean>): Promise<boolean> {
    const changed = this.#changing.then(action)
    this.#changing = changed.catch(() => {})
    return changed
  }
}
