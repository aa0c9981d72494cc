/** The control file of a timeline on disk: one writer, whole-file replacement. */
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { assert, ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { type ControlState, decodeControlState, encodeControlState } from '../control-state.ts'
import type { DiskReserve } from './disk-reserve.ts'
import { removeFile, replaceFile, syncDirectory, writeFirstFile } from './files.ts'

export const CONTROL_FILE_NAME = 'safekeeper.control'
const RETRY_MS = 1_000

export class ControlFile {
  #path: string
  #tail: Promise<void> = Promise.resolve()
  #stored: ControlState | null = null
  /** Its bytes: the same once more need no write. */
  #storedBytes: Buffer | null = null
  /** The newest state that was asked to be stored. */
  #newest: ControlState | null = null
  /** Fields that belong to the WAL store; null until it changed them. */
  #mark: Pick<ControlState, 'dirtyTail' | 'localStartLsn'> | null = null
  readonly #reserve: DiskReserve | null

  /** `reserve` is given up for a write for which there is no space otherwise. */
  constructor(directory: string, reserve: DiskReserve | null = null) {
    this.#path = join(directory, CONTROL_FILE_NAME)
    this.#reserve = reserve
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
    // Its name may be newer than what is on disk of the folder, if the process before was killed.
    await syncDirectory(dirname(this.#path))
    try {
      const state = decodeControlState(bytes)
      this.#stored = state
      this.#newest = state
      this.#storedBytes = bytes
      return state
    } catch (error) {
      if (!(error instanceof ZenithError)) throw error
      throw new ZenithError(error.code, `${this.#path}: ${error.message}`, {
        ...(error.hint === undefined ? {} : { hint: error.hint }),
      })
    }
  }

  /** Stores the first state, durably, in a folder that has another name until it counts. */
  async create(state: ControlState): Promise<void> {
    assert(this.#newest === null, 'a control file is created once')
    this.#newest = state
    const bytes = encodeControlState(state)
    await this.#replace(bytes, writeFirstFile)
    this.#storedBytes = bytes
    this.#stored = state
  }

  /**
   * Stores a state durably. Writes happen in the order of the calls. Without space on the disk the
   * write is tried again until there is some: whatever waits for it must not go on without.
   */
  write(wanted: ControlState): Promise<void> {
    const state = { ...wanted, ...this.#mark }
    this.#newest = state
    const bytes = encodeControlState(state)
    const done = this.#tail.then(async () => {
      if (this.#storedBytes?.equals(bytes)) return
      await this.#replace(bytes, replaceFile)
      this.#storedBytes = bytes
      this.#stored = state
    })
    // The chain goes on after a failure; the caller of this write sees it.
    this.#tail = done.catch(() => {})
    return done
  }

  /**
   * Stores the fields of the WAL store over the newest state that was asked to be stored: what the
   * acceptor has decided since, and stores only after the files have changed, must not go with it.
   */
  mark(dirtyTail: boolean, localStartLsn: Lsn): Promise<void> {
    assert(this.#newest !== null, 'a control file is read or written before it is marked')
    this.#mark = { dirtyTail, localStartLsn }
    return this.write(this.#newest)
  }

  async #replace(bytes: Buffer, store: typeof replaceFile): Promise<void> {
    while (true) {
      try {
        await store(this.#path, bytes)
        return
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
        if (!(await this.#reserve?.release())) await sleep(RETRY_MS)
      }
    }
  }
}
