/**
 * The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), as Postgres asks for passwords: neither
 * side sends the password, and the server proves that it knows it, too. Without channel binding.
 */
import { ZenithError } from '../errors.ts'

export const SCRAM_MECHANISM = 'SCRAM-SHA-256'
/** No channel binding, no other identity: `n,,`, in base64. */
const GS2_HEADER = 'n,,'
const MAX_ITERATIONS = 1_000_000

// Loaded when first used: most connections of most processes ask for no password.
const crypto = () => process.getBuiltinModule('node:crypto')
const hmac = (key: Buffer, text: string) => crypto().createHmac('sha256', key).update(text).digest()

export class ScramClient {
  readonly #password: string
  readonly #firstBare: string
  readonly #nonce: string
  #serverSignature: Buffer | null = null

  constructor(password: string, nonce: string = crypto().randomBytes(18).toString('base64')) {
    this.#password = password.normalize('NFKC')
    this.#nonce = nonce
    this.#firstBare = `n=,r=${nonce}`
  }

  /** What begins the exchange; Postgres takes the user from the start-up packet. */
  first(): string {
    return GS2_HEADER + this.#firstBare
  }

  /** The answer to the server's challenge. Throws `unauthenticated` for one that cannot be right. */
  final(serverFirst: string): string {
    const [, nonce = '', salt = '', iterations = ''] =
      /^r=([^,]+),s=([^,]+),i=(\d+)$/.exec(serverFirst) ?? []
    const rounds = Number(iterations)
    const fresh = nonce.startsWith(this.#nonce) && nonce.length > this.#nonce.length
    if (!fresh || !(rounds >= 1 && rounds <= MAX_ITERATIONS)) {
      throw new ZenithError('unauthenticated', 'the server sent a wrong challenge for the password')
    }
    const salted = crypto().pbkdf2Sync(
      this.#password,
      Buffer.from(salt, 'base64'),
      rounds,
      32,
      'sha256',
    )
    const clientKey = hmac(salted, 'Client Key')
    const storedKey = crypto().createHash('sha256').update(clientKey).digest()
    const withoutProof = `c=${Buffer.from(GS2_HEADER).toString('base64')},r=${nonce}`
    const message = `${this.#firstBare},${serverFirst},${withoutProof}`
    const signature = hmac(storedKey, message)
    const proof = Buffer.from(clientKey.map((byte, index) => byte ^ (signature[index] as number)))
    this.#serverSignature = hmac(hmac(salted, 'Server Key'), message)
    return `${withoutProof},p=${proof.toString('base64')}`
  }

  /** Throws `unauthenticated` unless the server has shown that it knows the password. */
  verify(serverFinal: string): void {
    const given = Buffer.from(/^v=([^,]+)$/.exec(serverFinal)?.[1] ?? '', 'base64')
    const expected = this.#serverSignature
    if (expected !== null && given.length === 32 && crypto().timingSafeEqual(given, expected))
      return
    throw new ZenithError('unauthenticated', 'the server does not know the password itself', {
      hint: 'Something else may be answering in its place.',
    })
  }
}

/** The old way: md5(md5(password + user) + salt). */
export function md5Password(user: string, password: string, salt: Buffer): string {
  const md5 = (...parts: (string | Buffer)[]) => {
    const hash = crypto().createHash('md5')
    for (const part of parts) hash.update(part)
    return hash.digest('hex')
  }
  return `md5${md5(md5(password, user), salt)}`
}
