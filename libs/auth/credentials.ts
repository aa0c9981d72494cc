/**
 * What a process shows to safekeepers, and how it knows that they are safekeepers. A process has one
 * identity, set once in its `main.ts`; every connection to a safekeeper (`connectSafekeeper`,
 * `callSafekeeper`) uses it unless it is given other credentials. Without any, connections are plain
 * and show nothing, which suits safekeepers without `auth` on loopback.
 */
import type { SessionTarget } from '../pgwire/session-target.ts'

/** How the other side of a TLS connection is verified: its name and its chain, always both. */
export interface ClientTls {
  /** Certificates (PEM) of the authorities that are believed. */
  ca: string
}

export interface TokenWant {
  /** A WAL connection, or a request to the HTTP side. */
  for: 'wal' | 'http'
  /** The timeline it is about; null when it is about none, or all. */
  target: SessionTarget | null
}

export interface Credentials {
  /** A token that is valid now, or null to show nothing. Throws when there should be one and is none. */
  token(want: TokenWant): Promise<string | null>
  /** Null: connections are not encrypted. Asked for each connection, so that it may change. */
  tls(): ClientTls | null
}

export const NO_CREDENTIALS: Credentials = {
  token: () => Promise.resolve(null),
  tls: () => null,
}

let own: Credentials = NO_CREDENTIALS

/** Sets the identity of this process; before its first connection. */
export function useCredentials(credentials: Credentials): void {
  own = credentials
}

export function ownCredentials(): Credentials {
  return own
}
