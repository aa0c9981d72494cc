/** What a client answers to the requests of a stock server for a password. */
import { ZenithError } from '../errors.ts'
import { md5Password, SCRAM_MECHANISM, ScramClient } from './scram.ts'

const OK = 0
const CLEARTEXT = 3
const MD5 = 5
const SASL = 10
const SASL_CONTINUE = 11
const SASL_FINAL = 12

export interface PasswordExchange {
  user: string
  /** Null: there is none to show. */
  password: string | null
  scram: ScramClient | null
}

/**
 * The body of the password message that answers authentication request `code` with its data, or
 * null when none is due. Throws `unauthenticated` without a password, or when the server does not
 * know it; `unsupported` for other ways (Kerberos and the like).
 */
export function answerPassword(
  exchange: PasswordExchange,
  code: number,
  data: Buffer,
): Buffer | null {
  if (code === OK) return null
  const { user, password } = exchange
  if (password === null) {
    throw new ZenithError('unauthenticated', `the server asks for the password of "${user}"`, {
      hint: 'Give it in the URL, in PGPASSWORD, or in ~/.pgpass.',
    })
  }
  switch (code) {
    case CLEARTEXT:
      return Buffer.from(`${password}\0`)
    case MD5:
      return Buffer.from(`${md5Password(user, password, data.subarray(0, 4))}\0`)
    case SASL: {
      if (!data.toString('utf8').split('\0').includes(SCRAM_MECHANISM)) break
      exchange.scram = new ScramClient(password)
      const first = Buffer.from(exchange.scram.first())
      const length = Buffer.alloc(4)
      length.writeUInt32BE(first.length)
      return Buffer.concat([Buffer.from(`${SCRAM_MECHANISM}\0`), length, first])
    }
    case SASL_CONTINUE:
      if (exchange.scram === null) break
      return Buffer.from(exchange.scram.final(data.toString('utf8')))
    case SASL_FINAL:
      if (exchange.scram === null) break
      exchange.scram.verify(data.toString('utf8'))
      return null
    default:
  }
  throw new ZenithError('unsupported', `the server asks for authentication of kind ${code}`, {
    hint: 'Passwords (scram-sha-256, md5, password) and trust are supported in pg_hba.conf.',
  })
}
