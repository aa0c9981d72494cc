/**
 * The control plane gives out all tokens of an installation: to itself, to nodes that know their
 * secret, to computes for the one timeline that they were started for. Without `auth` in its
 * settings there are none, and nobody shows any.
 */
import { resolve } from 'node:path'
import type { SafekeeperAccess } from '#libs/api/compute-spec.ts'
import type { Claims, Scope } from '#libs/auth/claims.ts'
import type { Credentials } from '#libs/auth/credentials.ts'
import { KeyFolder, keyFolders } from '#libs/auth/key-folder.ts'
import { nodeSecret, readSecret, secretsEqual } from '#libs/auth/node-secret.ts'
import type { IssuedToken } from '#libs/auth/renewing-token.ts'
import { CaFile } from '#libs/auth/tls-files.ts'
import { TokenSigner, TokenVerifier } from '#libs/auth/token.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'
import type { ControlConfig } from './config.ts'

/** Half of it is how long the control plane may be away before anybody misses a token. */
const LIFETIME_MS = 60 * 60_000
/** Of tokens that are used at once. */
const OWN_LIFETIME_MS = 5 * 60_000
/**
 * A compute that slept past the end of its token may still exchange it: what counts there is that the
 * endpoint's record names this very start of it.
 */
const RENEWAL_GRACE_MS = 24 * 60 * 60_000

export interface TokensOptions {
  /** Folder of keys, name of the installation, file with the secret of nodes; null: no tokens. */
  auth: { keys: string; audience: string; nodeSecrets: string } | null
  /** File with the authorities of safekeepers; null: connections to them are plain. */
  caFile: string | null
  log: Logger
}

export class Tokens {
  readonly #signer: TokenSigner | null = null
  readonly #verifier: TokenVerifier | null = null
  readonly #master: string | null = null
  readonly #ca: CaFile | null
  readonly #folders: KeyFolder[] = []

  constructor({ auth, caFile, log }: TokensOptions) {
    this.#ca = caFile === null ? null : new CaFile(caFile)
    if (auth === null) return
    const { publicDir, privateDir } = keyFolders(auth.keys)
    const [publicKeys, privateKeys] = [
      new KeyFolder(publicDir, 'public', log),
      new KeyFolder(privateDir, 'private', log),
    ]
    this.#folders.push(publicKeys, privateKeys)
    this.#signer = new TokenSigner(privateKeys, auth.audience)
    this.#verifier = new TokenVerifier(publicKeys, auth.audience)
    this.#master = readSecret(auth.nodeSecrets)
  }

  /** What the control plane itself shows to safekeepers: each token for one thing. */
  get credentials(): Credentials {
    return {
      token: (want) =>
        this.#sign({
          scope: want.for === 'http' ? 'sk-admin' : 'wal-read',
          subject: 'control',
          target: want.target,
          lifetimeMs: OWN_LIFETIME_MS,
        }),
      tls: () => this.#ca?.read() ?? null,
    }
  }

  /** Checks a token that somebody shows; null: nobody is asked for one. */
  get verify(): ((token: string) => Promise<Claims>) | null {
    const verifier = this.#verifier
    return verifier === null ? null : (token) => verifier.verify(token)
  }

  /** What a compute is started with to reach its safekeepers. */
  async forCompute(
    endpoint: string,
    mode: 'primary' | 'replica' | 'static',
    target: SessionTarget,
  ): Promise<SafekeeperAccess> {
    const token = await this.#sign({
      scope: mode === 'primary' ? 'compute-write' : 'wal-read',
      subject: `endpoint ${endpoint}`,
      target,
      lifetimeMs: LIFETIME_MS,
    })
    const ca = this.#ca?.read().ca
    return {
      ...(token === null ? {} : { token, expiresInMs: LIFETIME_MS }),
      ...(ca === undefined ? {} : { ca }),
    }
  }

  /**
   * Exchanges the token of a compute for one that lives longer, with the same claims. Throws
   * `unauthenticated` or `forbidden`; the caller has seen to it that the compute is the right one.
   */
  async renew(endpoint: string, target: SessionTarget, current: string): Promise<IssuedToken> {
    const claims = await this.#required(this.#verifier).verify(current, {
      graceMs: RENEWAL_GRACE_MS,
    })
    const subject = `endpoint ${endpoint}`
    const same = claims.tenantId === target.tenantId && claims.timelineId === target.timelineId
    if (!same || claims.subject !== subject) {
      throw new ZenithError('forbidden', 'the token belongs to another endpoint')
    }
    return this.#issue(claims.scope, subject, target)
  }

  /** The token of a node. Throws `unauthenticated` when the secret is not the node's. */
  async forNode(
    kind: 'pageserver' | 'safekeeper',
    id: number,
    secret: string,
  ): Promise<IssuedToken> {
    const wanted = nodeSecret(this.#required(this.#master), kind, id)
    if (!secretsEqual(secret, wanted)) {
      throw new ZenithError('unauthenticated', `this is not the secret of ${kind} ${id}`, {
        hint: '"zenith start" writes it into the folder of each service.',
      })
    }
    return this.#issue(kind === 'safekeeper' ? 'sk-peer' : 'wal-read', `${kind}/${id}`, null)
  }

  close(): void {
    for (const folder of this.#folders) folder.close()
  }

  async #issue(scope: Scope, subject: string, target: SessionTarget | null): Promise<IssuedToken> {
    const request = { scope, subject, target, lifetimeMs: LIFETIME_MS }
    return { token: await this.#required(this.#signer).sign(request), expiresInMs: LIFETIME_MS }
  }

  #sign(request: Parameters<TokenSigner['sign']>[0]): Promise<string | null> {
    return this.#signer === null ? Promise.resolve(null) : this.#signer.sign(request)
  }

  #required<T>(part: T | null): T {
    if (part !== null) return part
    throw new ZenithError('precondition_failed', 'this control plane gives out no tokens', {
      hint: 'Its settings have no [auth]; docs/security.md.',
    })
  }
}

/** Throws `invalid_argument` when a file that the settings name is missing. */
export function openTokens(config: ControlConfig & { dataDir: string }, log: Logger): Tokens {
  const { auth, safekeeper_ca: caFile, dataDir } = config
  const path = (file: string) => resolve(dataDir, file)
  return new Tokens({
    auth:
      auth === undefined
        ? null
        : {
            keys: path(auth.keys),
            audience: auth.audience,
            nodeSecrets: path(auth.node_secrets),
          },
    caFile: caFile === undefined ? null : path(caFile),
    log,
  })
}
