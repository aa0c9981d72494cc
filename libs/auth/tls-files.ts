/**
 * Certificates in files, read again when they change: connections that are open live on, new ones
 * get the new certificate. A pair of files that does not fit together (one of two is replaced) is
 * left alone until it does.
 */
import { readFileSync, statSync } from 'node:fs'
import { createSecureContext, type SecureContext } from 'node:tls'
import { errorMessage, ZenithError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { ClientTls } from './credentials.ts'

const RELOAD_MS = 1_000

export interface ServerTlsFiles {
  cert: string
  key: string
}

export class ServerTls {
  readonly #files: ServerTlsFiles
  readonly #log: Logger
  readonly #timer: NodeJS.Timeout
  readonly #listeners: ((pair: { cert: string; key: string }) => void)[] = []
  #stamp: string
  #pair: { cert: string; key: string }
  #context: SecureContext

  /** Throws `invalid_argument` when the files are missing or do not fit together. */
  constructor(files: ServerTlsFiles, log: Logger) {
    this.#files = files
    this.#log = log
    try {
      this.#stamp = this.#stampNow()
      this.#pair = this.#read()
      this.#context = contextOf(this.#pair)
    } catch (error) {
      const reason = errorMessage(error)
      throw new ZenithError('invalid_argument', `no TLS with ${files.cert}: ${reason}`)
    }
    this.#timer = setInterval(() => this.#look(), RELOAD_MS)
    this.#timer.unref()
  }

  /** For the next connection. */
  get context(): SecureContext {
    return this.#context
  }

  get pair(): { cert: string; key: string } {
    return this.#pair
  }

  onChange(listener: (pair: { cert: string; key: string }) => void): void {
    this.#listeners.push(listener)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #look(): void {
    try {
      const stamp = this.#stampNow()
      if (stamp === this.#stamp) return
      const pair = this.#read()
      this.#context = contextOf(pair)
      this.#pair = pair
      this.#stamp = stamp
      this.#log.info({ cert: this.#files.cert }, 'new certificate')
      for (const listener of this.#listeners) listener(pair)
    } catch (error) {
      const reason = errorMessage(error)
      this.#log.warn({ cert: this.#files.cert, reason }, 'keeping the old certificate')
    }
  }

  #read(): { cert: string; key: string } {
    const { cert, key } = this.#files
    return { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') }
  }

  #stampNow(): string {
    return stampOf(this.#files.cert) + stampOf(this.#files.key)
  }
}

function contextOf(pair: { cert: string; key: string }): SecureContext {
  return createSecureContext({ ...pair, minVersion: 'TLSv1.3' })
}

function stampOf(file: string): string {
  const { mtimeMs, size, ino } = statSync(file)
  return `${mtimeMs} ${size} ${ino};`
}

/** The certificates that a client believes; to change the authority both are in the file for a while. */
export class CaFile {
  readonly #file: string
  #stamp = ''
  #tls: ClientTls = { ca: '' }

  /** Throws when the file cannot be read. */
  constructor(file: string) {
    this.#file = file
    this.read()
  }

  read(): ClientTls {
    const stamp = stampOf(this.#file)
    if (stamp !== this.#stamp) {
      this.#tls = { ca: readFileSync(this.#file, 'utf8') }
      this.#stamp = stamp
    }
    return this.#tls
  }
}
