/**
 * Tokens: JWTs signed with Ed25519 (`alg` EdDSA), short-lived, for one installation.
 *
 *   header  {"alg":"EdDSA","typ":"JWT","kid":"<file name of the key>"}
 *   claims  {"aud":"<installation>","sub":"endpoint main","scope":"compute-write",
 *            "tenant":"<32 hex>","timeline":"<32 hex>","iat":...,"exp":...}
 *
 * A verified token is remembered by its hash, so that reconnecting costs no signature check; its
 * time and its key are looked at each time.
 */
import { createHash } from 'node:crypto'
import { errors, jwtVerify, SignJWT, type JWTPayload } from 'jose'
import { ZenithError } from '../errors.ts'
import type { SessionTarget } from '../pgwire/session-target.ts'
import { type Claims, type Scope, SCOPES } from './claims.ts'
import type { KeyFolder } from './key-folder.ts'

const ALGORITHM = 'EdDSA'
/** How far clocks of two machines may be apart. */
const CLOCK_SKEW_S = 30
/** A token that is valid for longer is not ours. */
const MAX_LIFETIME_S = 24 * 3600
const MAX_TOKEN_BYTES = 4096
const MAX_CACHED = 1000
const ID = /^[0-9a-f]{32}$/

export interface TokenRequest {
  scope: Scope
  subject: string
  /** Null: all tenants. */
  target: SessionTarget | null
  lifetimeMs: number
}

export class TokenSigner {
  readonly #keys: KeyFolder
  readonly #audience: string

  /** `keys` holds private keys; the newest signs. */
  constructor(keys: KeyFolder, audience: string) {
    this.#keys = keys
    this.#audience = audience
  }

  sign(request: TokenRequest, nowMs = Date.now()): Promise<string> {
    const { kid, key } = this.#keys.newest()
    const { scope, subject, target } = request
    const issuedAt = Math.floor(nowMs / 1000)
    const bound =
      target === null ? {} : { tenant: target.tenantId as string, timeline: target.timelineId }
    return new SignJWT({ scope, ...bound })
      .setProtectedHeader({ alg: ALGORITHM, typ: 'JWT', kid })
      .setAudience(this.#audience)
      .setSubject(subject)
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + Math.ceil(request.lifetimeMs / 1000))
      .sign(key)
  }
}

export interface VerifyOptions {
  /** Unix time in milliseconds; default now. */
  nowMs?: number
  /** How long after its end a token is still taken; default the clocks' skew. */
  graceMs?: number
}

export class TokenVerifier {
  readonly #keys: KeyFolder
  readonly #audience: string
  /** By the hash of the token, oldest first. */
  readonly #verified = new Map<string, { claims: Claims; kid: string }>()

  /** `keys` holds public keys. */
  constructor(keys: KeyFolder, audience: string) {
    this.#keys = keys
    this.#audience = audience
  }

  /** Throws `unauthenticated` for everything that is not a valid token of this installation. */
  async verify(token: string, options: VerifyOptions = {}): Promise<Claims> {
    const { nowMs = Date.now(), graceMs = CLOCK_SKEW_S * 1000 } = options
    if (token.length > MAX_TOKEN_BYTES) throw invalid('it is too long')
    const hash = createHash('sha256').update(token).digest('base64')
    const known = this.#verified.get(hash)
    if (known !== undefined && this.#keys.get(known.kid) !== undefined) {
      if (isExpired(known.claims, nowMs, graceMs)) throw expired()
      return known.claims
    }
    this.#verified.delete(hash)
    const verified = await this.#check(token, nowMs, graceMs)
    this.#verified.set(hash, verified)
    if (this.#verified.size > MAX_CACHED) {
      const [oldest] = this.#verified.keys()
      this.#verified.delete(oldest as string)
    }
    return verified.claims
  }

  async #check(
    token: string,
    nowMs: number,
    graceMs: number,
  ): Promise<{ claims: Claims; kid: string }> {
    try {
      const { payload, protectedHeader } = await jwtVerify(
        token,
        ({ kid }) => {
          const key = kid === undefined ? undefined : this.#keys.get(kid)
          if (key === undefined) throw invalid('its key is not known here')
          return key
        },
        {
          algorithms: [ALGORITHM],
          audience: this.#audience,
          requiredClaims: ['exp', 'iat', 'sub', 'scope'],
          clockTolerance: graceMs / 1000,
          currentDate: new Date(nowMs),
        },
      )
      return { claims: claimsOf(payload), kid: protectedHeader.kid as string }
    } catch (error) {
      throw asRefusal(error)
    }
  }
}

/** Whether the time of a token that was verified earlier is over. */
export function isExpired(
  claims: Claims,
  nowMs = Date.now(),
  graceMs = CLOCK_SKEW_S * 1000,
): boolean {
  return nowMs >= claims.expiresAtMs + graceMs
}

export function expired(): ZenithError {
  return new ZenithError('unauthenticated', 'the token has expired', {
    hint: 'The control plane gives out new ones; see docs/security.md.',
  })
}

function invalid(reason: string): ZenithError {
  return new ZenithError('unauthenticated', `the token is not valid: ${reason}`)
}

function claimsOf(payload: JWTPayload): Claims {
  const { exp, iat, sub, scope, tenant = null, timeline = null } = payload
  if (!SCOPES.includes(scope as Scope)) throw invalid('its scope is not known here')
  if (exp === undefined || iat === undefined || exp - iat > MAX_LIFETIME_S) {
    throw invalid('its lifetime is too long')
  }
  if (!isId(tenant) || !isId(timeline) || (timeline !== null && tenant === null)) {
    throw invalid('its tenant or timeline is malformed')
  }
  return {
    scope: scope as Scope,
    tenantId: tenant,
    timelineId: timeline,
    subject: String(sub),
    expiresAtMs: exp * 1000,
  }
}

function isId(value: unknown): value is string | null {
  return value === null || (typeof value === 'string' && ID.test(value))
}

/** Says what is wrong in words of ours, none of which come from the token. */
function asRefusal(error: unknown): ZenithError {
  if (error instanceof ZenithError) return error
  if (error instanceof errors.JWTExpired) return expired()
  if (error instanceof errors.JWTClaimValidationFailed) {
    if (error.claim === 'aud') return invalid('it is for another installation')
    return invalid(`its claim "${error.claim}" is missing or wrong`)
  }
  if (error instanceof errors.JOSEAlgNotAllowed) return invalid('its algorithm is not allowed')
  if (error instanceof errors.JWSSignatureVerificationFailed)
    return invalid('its signature is wrong')
  return invalid('it is malformed')
}
