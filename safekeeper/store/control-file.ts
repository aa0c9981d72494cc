/** The control file of a timeline on disk: one writer, whole-file replacement. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { assert, ZenithError } from '#libs/errors.ts'
import { type ControlState, decodeControlState, encodeControlState } from '../control-state.ts'
import { removeFile, replaceFile } from './files.ts'

export const CONTROL_FILE_NAME = 'safekeeper.control'
const RETRY_MS = 1_000

export class ControlFile {
  #path: string
  #tail: Promise<void> = Promise.resolve()
  #stored: ControlState | null = null

  constructor(directory: string) {
    this.#path = join(directory, CONTROL_FILE_NAME)
  }

  /** The newest state known to be on disk, after the first read or write. */
  get stored(): ControlState {
    assert(this.#stored !== null, 'a control file is read or written before it is used')
    return this.#stored
  }

  /** The folder has another name now. */
  moved(directory: string): void {
    this.#path = join(directory, CONTROL_FILE_NAME)
  }

  /** Reads and checks it; a half-written successor is removed. Throws `corrupt` naming the file. */
  async read(): Promise<ControlState> {
    await removeFile(`${this.#path}.tmp`)
    const bytes = await readFile(this.#path)
    try {
      this.#stored = decodeControlState(bytes)
      return this.#stored
    } catch (error) {
      if (!(error instanceof ZenithError)) throw error
      throw new ZenithError(error.code, `${this.#path}: ${error.message}`, {
        ...(error.hint === undefined ? {} : { hint: error.hint }),
      })
    }
  }

  /**
   * Stores a state durably. Writes happen in the order of the calls. Without space on the disk the
   * write is tried again until there is some: whatever waits for it must not go on without.
   */
  write(state: ControlState): Promise<void> {
    const bytes = encodeControlState(state)
    const done = this.#tail.then(async () => {
      await this.#replace(bytes)
      this.#stored = state
    })
    // The chain goes on after a failure; the caller of this write sees it.
    this.#tail = done.catch(() => {})
    return done
  }

  async #replace(bytes: Buffer): Promise<void> {
    while (true) {
      try {
        await replaceFile(this.#path, bytes)
        return
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
        await sleep(RETRY_MS)
      }
    }
  }
}
