/** Bringing layer files from object storage to local disk: a few at once, and only with room. */
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { Semaphore } from '#libs/semaphore.ts'

/** Files of all tenants brought at once. */
const AT_ONCE = 4
/** After a failure the file is asked for again at the earliest after this. */
const REST_MS = 10_000

export interface Download {
  readonly name: string
  readonly sizeBytes: number
}

export interface DownloadStats {
  files: number
  bytes: number
  failures: number
  /** Files that wait or are being fetched. */
  pending: number
}

export interface DownloadsOptions {
  log: Logger
  disk: {
    /** False when the disk is too full for so many bytes more. */
    hasRoom: (bytes: number) => boolean
    took: (bytes: number) => void
  }
}

export class Downloads {
  readonly #log: Logger
  readonly #disk: DownloadsOptions['disk']
  readonly #slots = new Semaphore(AT_ONCE)
  /** When those that failed may be tried again. */
  readonly #resting = new Map<string, number>()
  #files = 0
  #bytes = 0
  #failures = 0
  #pending = 0

  constructor(options: DownloadsOptions) {
    this.#log = options.log
    this.#disk = options.disk
  }

  get stats(): DownloadStats {
    return {
      files: this.#files,
      bytes: this.#bytes,
      failures: this.#failures,
      pending: this.#pending,
    }
  }

  /** Whether a file that nobody waits for should be brought now. */
  mayFetch({ name, sizeBytes }: Download): boolean {
    const untilMs = this.#resting.get(name)
    if (untilMs !== undefined) {
      if (performance.now() < untilMs) return false
      this.#resting.delete(name)
    }
    return this.#disk.hasRoom(sizeBytes)
  }

  /** Runs one download in its turn. */
  async run({ sizeBytes }: Download, work: () => Promise<void>): Promise<void> {
    this.#pending++
    this.#disk.took(sizeBytes)
    try {
      await this.#slots.run(work)
      this.#files++
      this.#bytes += sizeBytes
    } finally {
      this.#pending--
    }
  }

  /** A download that nobody waited for. */
  failed({ name }: Download, error: unknown): void {
    this.#failures++
    this.#resting.set(name, performance.now() + REST_MS)
    this.#log.warn({ layer: name }, `a layer stays in object storage: ${errorMessage(error)}`)
  }
}
