/** Who may come in here and how, and who this safekeeper is to others: from its settings. */
import { resolve } from 'node:path'
import { tlsFiles } from '#libs/auth/auth-settings.ts'
import { checkPermission } from '#libs/auth/claims.ts'
import { type Credentials, NO_CREDENTIALS } from '#libs/auth/credentials.ts'
import { KeyFolder } from '#libs/auth/key-folder.ts'
import { checkListenAddress } from '#libs/auth/listen-rule.ts'
import { nodeCredentials } from '#libs/auth/node-credentials.ts'
import { ServerTls } from '#libs/auth/tls-files.ts'
import { TokenVerifier } from '#libs/auth/token.ts'
import { ZenithError } from '#libs/errors.ts'
import type { GuardOptions } from '#libs/http/guard.ts'
import type { Logger } from '#libs/log.ts'
import type { SafekeeperConfig } from './config.ts'
import { requestTarget, routeScopes } from './permissions.ts'

export interface Access {
  /** Null: nobody is asked for a token. */
  verifier: TokenVerifier | null
  /** Null: connections are not encrypted. */
  tls: ServerTls | null
  /** What is shown to other safekeepers. */
  credentials: Credentials
  close(): void
}

/** Throws `invalid_argument` for settings that would let strangers in, or files that are missing. */
export function openAccess(config: SafekeeperConfig & { dataDir: string }, log: Logger): Access {
  const { auth, dataDir, control_plane_url: controlPlaneUrl } = config
  checkListenAddress('safekeeper', [config.listen_pg_host, config.listen_http_host], {
    auth: auth !== undefined,
    insecure: config.insecure === true,
  })
  const files = tlsFiles(config.tls, dataDir)
  const keys = auth ? new KeyFolder(resolve(dataDir, auth.public_keys), 'public', log) : null
  const tls = files === null ? null : new ServerTls(files, log)
  const secret = auth?.node_secret
  if (secret !== undefined && controlPlaneUrl === undefined) {
    throw new ZenithError('invalid_argument', 'auth.node_secret needs control_plane_url')
  }
  return {
    verifier: keys === null || auth === undefined ? null : new TokenVerifier(keys, auth.audience),
    tls,
    credentials:
      controlPlaneUrl === undefined
        ? NO_CREDENTIALS
        : nodeCredentials({
            kind: 'safekeeper',
            id: config.id,
            controlPlaneUrl,
            secretFile: secret === undefined ? null : resolve(dataDir, secret),
            caFile: files?.ca ?? null,
            log,
          }),
    close: () => {
      keys?.close()
      tls?.close()
    },
  }
}

/** What guards the HTTP side. */
export function routeGuard(verifier: TokenVerifier): Omit<GuardOptions, 'log'> {
  return {
    verify: (token) => verifier.verify(token),
    isOpen: (method, path) => routeScopes(method, path) === null,
    permit: (claims, method, path, params) => {
      const scopes = routeScopes(method, path)
      if (scopes !== null) checkPermission(claims, scopes, requestTarget(params))
    },
  }
}
