/**
 * The way into object storage for all timelines of a page server: so many objects at once, each
 * tried again until it is there or its timeline closes. Whoever uploads decides on the order, which
 * is a manifest only after its layers.
 *
 * Failing uploads do not stop the taking in of WAL before the files that wait for them have grown
 * to a bound, so that the disk does not fill.
 */
import { stat } from 'node:fs/promises'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { Semaphore } from '#libs/semaphore.ts'
import { retry } from './retry.ts'

/** Objects written at once. */
const AT_ONCE = 8
/** Every so many failures of one object are told, and the first. */
const TELL_EVERY = 20

export interface UploadStats {
  /** Objects that wait or are being written, and files that will come. */
  queued: number
  /** Bytes of files that exist only here. */
  pendingBytes: number
  uploaded: number
  uploadedBytes: number
  retries: number
}

export interface UploadQueueOptions {
  store: ObjectStore
  log: Logger
  /** Taking in WAL waits while more bytes than this exist only here. */
  maxPendingBytes: number
}

export class UploadQueue {
  readonly #store: ObjectStore
  readonly #log: Logger
  readonly #maxPendingBytes: number
  readonly #slots = new Semaphore(AT_ONCE)
  #queued = 0
  #pendingBytes = 0
  #uploaded = 0
  #uploadedBytes = 0
  #retries = 0
  #roomWaiters: (() => void)[] = []

  constructor(options: UploadQueueOptions) {
    this.#store = options.store
    this.#log = options.log
    this.#maxPendingBytes = options.maxPendingBytes
  }

  get stats(): UploadStats {
    return {
      queued: this.#queued,
      pendingBytes: this.#pendingBytes,
      uploaded: this.#uploaded,
      uploadedBytes: this.#uploadedBytes,
      retries: this.#retries,
    }
  }

  get isFull(): boolean {
    return this.#pendingBytes > this.#maxPendingBytes
  }

  /** A local file that will be uploaded counts from when it exists. */
  expect(sizeBytes: number): void {
    this.#pendingBytes += sizeBytes
  }

  /** The opposite of `expect`: it is in storage, or nobody will upload it. */
  done(sizeBytes: number): void {
    this.#pendingBytes -= sizeBytes
    if (this.isFull) return
    for (const resolve of this.#roomWaiters.splice(0)) resolve()
  }

  /** Resolves when few enough bytes exist only here, or the signal is aborted. */
  async waitForRoom(signal: AbortSignal): Promise<void> {
    while (this.isFull && !signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#roomWaiters.push(resolve)
        signal.addEventListener('abort', () => resolve(), { once: true })
      })
    }
  }

  /** As `ObjectStore.putFile`, until it works; throws what no further attempt changes. */
  async putFile(name: string, path: string, signal: AbortSignal): Promise<void> {
    const { size } = await stat(path)
    await this.#run(name, size, signal, () => this.#store.putFile(name, path))
  }

  /** As `ObjectStore.put`, likewise. */
  async put(name: string, bytes: Buffer, signal: AbortSignal): Promise<void> {
    await this.#run(name, bytes.length, signal, () => this.#store.put(name, bytes))
  }

  async #run(
    name: string,
    sizeBytes: number,
    signal: AbortSignal,
    work: () => Promise<void>,
  ): Promise<void> {
    this.#queued++
    try {
      // The place is given up between attempts, so that one bad object does not hold the others.
      await retry(() => this.#slots.run(work), {
        signal,
        onRetry: (error, attempt) => {
          this.#retries++
          if (attempt % TELL_EVERY !== 1) return
          this.#log.warn(
            { object: name, attempt },
            `an upload failed and will be tried again: ${errorMessage(error)}`,
          )
        },
      })
      this.#uploaded++
      this.#uploadedBytes += sizeBytes
    } finally {
      this.#queued--
    }
  }
}
