/** The keys `auth` and `tls` of a service's settings; paths are relative to its folder. */
import { resolve } from 'node:path'
import { type Static, Type } from 'typebox'
import { ZenithError } from '../errors.ts'

const Path = Type.String({ minLength: 1 })

/** Of a service that checks tokens. */
export const VerifierSettings = Type.Object(
  {
    /** Folder of public keys. */
    public_keys: Path,
    /** Name of the installation: tokens for another one are refused. */
    audience: Type.String({ minLength: 1, maxLength: 200 }),
    /** File with this node's secret, by which it gets tokens of its own. */
    node_secret: Type.Optional(Path),
  },
  { additionalProperties: false },
)

/** Of the control plane, which gives tokens out. */
export const SignerSettings = Type.Object(
  {
    /** Folder with the folders `public` and `private`. */
    keys: Path,
    audience: Type.String({ minLength: 1, maxLength: 200 }),
    /** File with the secret that those of nodes are derived from. */
    node_secrets: Path,
  },
  { additionalProperties: false },
)

/** Of a service that only shows tokens. */
export const NodeSettings = Type.Object({ node_secret: Path }, { additionalProperties: false })

export const TlsSettings = Type.Object(
  {
    mode: Type.Union([Type.Literal('require'), Type.Literal('off')]),
    cert: Type.Optional(Path),
    key: Type.Optional(Path),
    /** Authorities by which other safekeepers are verified. */
    ca: Type.Optional(Path),
  },
  { additionalProperties: false },
)
export type TlsSettings = Static<typeof TlsSettings>

/** The files of TLS that is required, or null when it is off. Throws when one is not named. */
export function tlsFiles(
  settings: TlsSettings | undefined,
  dataDir: string,
): { cert: string; key: string; ca: string } | null {
  if (settings === undefined || settings.mode === 'off') return null
  const { cert, key, ca } = settings
  if (cert === undefined || key === undefined || ca === undefined) {
    throw new ZenithError(
      'invalid_argument',
      "tls.mode = 'require' needs tls.cert, tls.key and tls.ca",
    )
  }
  const path = (file: string) => resolve(dataDir, file)
  return { cert: path(cert), key: path(key), ca: path(ca) }
}
