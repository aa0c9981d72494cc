/** The address of a stock server as libpq's programs take it: a URL, and PG* for what it leaves out. */
import { readFileSync, statSync } from 'node:fs'
import { homedir, userInfo } from 'node:os'
import { join } from 'node:path'
import type { StockServer } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'

type Environment = Readonly<Record<string, string | undefined>>
type SslMode = StockServer['sslMode']

const SSL_MODES: readonly string[] = [
  'disable',
  'prefer',
  'require',
  'verify-ca',
  'verify-full',
] satisfies SslMode[]
const KNOWN_OPTIONS = new Set(['sslmode', 'sslrootcert', 'application_name', 'user', 'password'])

/** Throws `invalid_argument` for what is no URL of a server, or asks for what cannot be done. */
export function parseServerUrl(text: string, env: Environment = process.env): StockServer {
  const url = URL.parse(text)
  if (url === null || !/^postgres(ql)?:$/.test(url.protocol)) {
    throw new ZenithError('invalid_argument', `"${text}" is no URL of a Postgres.`, {
      hint: 'Write it as postgres://user@host:port/; the password may be in PGPASSWORD.',
    })
  }
  for (const name of url.searchParams.keys()) {
    if (KNOWN_OPTIONS.has(name)) continue
    throw new ZenithError('invalid_argument', `The option "${name}" of the URL is not supported.`, {
      hint: `Known are ${[...KNOWN_OPTIONS].join(', ')}.`,
    })
  }
  const option = (name: string) => url.searchParams.get(name) || undefined
  const host =
    decodeURIComponent(url.hostname).replace(/^\[|\]$/g, '') || env['PGHOST'] || 'localhost'
  const pgPort = Number(url.port || env['PGPORT'] || 5432)
  const user =
    decodeURIComponent(url.username) || option('user') || env['PGUSER'] || userInfo().username
  const given = decodeURIComponent(url.password) || option('password') || env['PGPASSWORD']
  const password = given ?? passwordFromFile({ host, pgPort, user }, env)
  const asked = option('sslmode') ?? env['PGSSLMODE'] ?? 'prefer'
  const sslMode = asked === 'allow' ? 'prefer' : asked
  if (!SSL_MODES.includes(sslMode)) {
    throw new ZenithError('invalid_argument', `"${asked}" is no sslmode.`, {
      hint: `It is one of ${SSL_MODES.join(', ')}.`,
    })
  }
  const certificates = option('sslrootcert') ?? env['PGSSLROOTCERT']
  return {
    host,
    pgPort,
    user,
    ...(password === undefined ? {} : { password }),
    sslMode: sslMode as SslMode,
    ...(certificates === undefined ? {} : { sslRootCert: readCertificates(certificates) }),
  }
}

function readCertificates(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new ZenithError('not_found', `The certificates cannot be read: ${errorMessage(error)}.`)
  }
}

/** `host:port:database:user:password` in ~/.pgpass, which only its owner may read. */
function passwordFromFile(
  { host, pgPort, user }: { host: string; pgPort: number; user: string },
  env: Environment,
): string | undefined {
  const path = env['PGPASSFILE'] ?? join(env['HOME'] ?? homedir(), '.pgpass')
  let text: string
  try {
    if ((statSync(path).mode & 0o077) !== 0) return undefined
    text = readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
  const wanted = [host, String(pgPort), 'replication', user]
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) continue
    const fields = line.split(/(?<!\\):/).map((field) => field.replace(/\\([:\\])/g, '$1'))
    if (fields.length !== 5) continue
    if (wanted.every((value, index) => fields[index] === '*' || fields[index] === value)) {
      return fields[4]
    }
  }
  return undefined
}
