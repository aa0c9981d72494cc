/**
 * Keys of an installation: folders with one file per key, `<kid>.json`, an Ed25519 key as a JWK
 * (RFC 8037). Verifiers have a folder of public keys, the signer one of private keys besides. A kid
 * begins with the time it was made at, so that the newest is the last one by name; adding a file
 * adds a key, deleting one takes it away, both without a restart.
 *
 *   public/20261121T173000Z-5f0c2a.json    {"kty":"OKP","crv":"Ed25519","x":"...","kid":"..."}
 *   private/20261121T173000Z-5f0c2a.json   the same with "d"; mode 0600
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  type webcrypto,
} from 'node:crypto'
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { errorMessage, ZenithError } from '../errors.ts'
import type { Logger } from '../log.ts'

const RELOAD_MS = 2_000
/** A token with an unknown kid makes us look again, but strangers cannot make us busy with it. */
const MIN_LOOK_GAP_MS = 250
const MAX_KEYS = 100
const MAX_FILE_BYTES = 4096
const FILE_NAME = /^([A-Za-z0-9_-]{1,64})\.json$/

export interface NamedKey {
  kid: string
  key: KeyObject
}

export class KeyFolder {
  readonly #dir: string
  readonly #kind: 'public' | 'private'
  readonly #log: Logger
  readonly #timer: NodeJS.Timeout
  #keys: ReadonlyMap<string, KeyObject> = new Map()
  /** Names, times and sizes of the files that were read. */
  #state = ''
  #lookedAtMs = Number.NEGATIVE_INFINITY

  /** Throws `invalid_argument` when the folder holds no key. Changes are noticed until `close`. */
  constructor(dir: string, kind: 'public' | 'private', log: Logger) {
    this.#dir = dir
    this.#kind = kind
    this.#log = log
    this.#look()
    if (this.#keys.size === 0) {
      throw new ZenithError('invalid_argument', `${dir} holds no ${kind} key`, {
        hint: '"zenith start" makes one; each is a file <kid>.json with an Ed25519 JWK.',
      })
    }
    this.#timer = setInterval(() => this.#look(), RELOAD_MS)
    this.#timer.unref()
  }

  get(kid: string): KeyObject | undefined {
    if (!this.#keys.has(kid) && performance.now() - this.#lookedAtMs > MIN_LOOK_GAP_MS) this.#look()
    return this.#keys.get(kid)
  }

  /** The last key by name. */
  newest(): NamedKey {
    const kid = [...this.#keys.keys()].toSorted().at(-1)
    const key = kid === undefined ? undefined : this.#keys.get(kid)
    if (kid !== undefined && key !== undefined) return { kid, key }
    throw new ZenithError('unavailable', `${this.#dir} holds no ${this.#kind} key any more`)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #look(): void {
    this.#lookedAtMs = performance.now()
    try {
      const files = keyFiles(this.#dir)
      const state = JSON.stringify(files)
      if (state === this.#state) return
      this.#keys = new Map(files.flatMap(({ kid, path }) => this.#read(kid, path)))
      this.#state = state
      this.#log.info({ kids: [...this.#keys.keys()] }, `${this.#kind} keys read`)
    } catch (error) {
      this.#log.error({ err: error, dir: this.#dir }, 'keys cannot be read; keeping those known')
    }
  }

  /** One file that cannot be read takes no other key away. */
  #read(kid: string, path: string): [string, KeyObject][] {
    try {
      return [[kid, this.#kind === 'public' ? readPublic(path) : readPrivate(path)]]
    } catch (error) {
      this.#log.error({ path, reason: errorMessage(error) }, 'this is not a key')
      return []
    }
  }
}

function keyFiles(dir: string): { kid: string; path: string; stamp: string }[] {
  const files = []
  for (const name of readdirSync(dir).toSorted().slice(-MAX_KEYS)) {
    const kid = FILE_NAME.exec(name)?.[1]
    if (kid === undefined) continue
    const path = join(dir, name)
    const { mtimeMs, size, ino } = statSync(path)
    if (size <= MAX_FILE_BYTES) files.push({ kid, path, stamp: `${mtimeMs} ${size} ${ino}` })
  }
  return files
}

function readPublic(path: string): KeyObject {
  const jwk = readJwk(path)
  if ('d' in jwk) throw new ZenithError('invalid_argument', 'a private key among public ones')
  return createPublicKey({ key: jwk, format: 'jwk' })
}

function readPrivate(path: string): KeyObject {
  return createPrivateKey({ key: readJwk(path), format: 'jwk' })
}

function readJwk(path: string): webcrypto.JsonWebKey {
  const jwk = JSON.parse(readFileSync(path, 'utf8')) as webcrypto.JsonWebKey
  if (jwk.kty === 'OKP' && jwk.crv === 'Ed25519') return jwk
  throw new ZenithError('invalid_argument', 'only Ed25519 keys are used')
}

/** The folders of keys below an installation's `auth` folder. */
export function keyFolders(authDir: string): { publicDir: string; privateDir: string } {
  return { publicDir: join(authDir, 'public'), privateDir: join(authDir, 'private') }
}

/**
 * Makes a key pair, the newest from now on; returns its kid. The public key is there first, so that
 * nobody meets a token that cannot be verified.
 */
export function makeKey(authDir: string, now: Date): string {
  const { publicDir, privateDir } = keyFolders(authDir)
  mkdirSync(privateDir, { recursive: true, mode: 0o700 })
  mkdirSync(publicDir, { recursive: true, mode: 0o755 })
  chmodSync(privateDir, 0o700)
  const time = now.toISOString().replace(/[-:]|\.\d+/g, '')
  const kid = `${time}-${randomBytes(3).toString('hex')}`
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const write = (dir: string, key: KeyObject, mode: number) => {
    const path = join(dir, `${kid}.json`)
    const text = JSON.stringify({ ...key.export({ format: 'jwk' }), kid, alg: 'EdDSA', use: 'sig' })
    writeFileSync(`${path}.new`, `${text}\n`, { mode })
    renameSync(`${path}.new`, path)
  }
  write(publicDir, publicKey, 0o644)
  write(privateDir, privateKey, 0o600)
  return kid
}
