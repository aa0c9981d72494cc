/** The credentials of a pageserver or safekeeper: a token that the control plane gives for its secret. */
import { callControl } from '../api/control-client.ts'
import type { Logger } from '../log.ts'
import type { Credentials } from './credentials.ts'
import { readSecret } from './node-secret.ts'
import { RenewingToken } from './renewing-token.ts'
import { CaFile } from './tls-files.ts'

const TIMEOUT_MS = 5_000

export interface NodeIdentity {
  kind: 'pageserver' | 'safekeeper'
  id: number
  controlPlaneUrl: string
  /** File with the node's secret; null: no tokens are shown. */
  secretFile: string | null
  /** File with the authorities of safekeepers; null: connections are plain. */
  caFile: string | null
  log: Logger
}

/** Throws `invalid_argument` when a file is missing. */
export function nodeCredentials(node: NodeIdentity): Credentials {
  const { kind, id, controlPlaneUrl, secretFile, caFile, log } = node
  const ca = caFile === null ? null : new CaFile(caFile)
  const tls = () => ca?.read() ?? null
  if (secretFile === null) return { token: () => Promise.resolve(null), tls }
  const secret = readSecret(secretFile)
  const token = new RenewingToken({
    fetch: () =>
      callControl(controlPlaneUrl, 'issueNodeToken', {
        body: { kind, id, secret },
        timeoutMs: TIMEOUT_MS,
      }),
    log,
  })
  return { token: () => token.get(), tls }
}
