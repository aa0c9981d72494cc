/**
 * Certificates for an installation that has none of its own: an authority, and one certificate per
 * service signed by it. EC keys, SHA-256. All files are PEM.
 */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { dirname } from 'node:path'
import { generate } from 'selfsigned'

const DAY_MS = 24 * 60 * 60_000
const EC = { keyType: 'ec', curve: 'P-256', algorithm: 'sha256' } as const

export interface KeyPairPem {
  cert: string
  key: string
}

/** An authority that signs the certificates of services; valid for ten years. */
export async function makeAuthority(name: string, nowMs: number): Promise<KeyPairPem> {
  const made = await generate([{ name: 'commonName', value: name }], {
    ...EC,
    ...lifetime(nowMs, 3650 * DAY_MS),
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    ],
  })
  return { cert: lines(made.cert), key: lines(made.private) }
}

/** A certificate for a service that is reached at `hosts`, names or addresses. */
export async function makeCertificate(
  authority: KeyPairPem,
  options: { name: string; hosts: readonly string[]; nowMs: number; lifetimeMs: number },
): Promise<KeyPairPem> {
  const made = await generate([{ name: 'commonName', value: options.name }], {
    ...EC,
    ...lifetime(options.nowMs, options.lifetimeMs),
    ca: authority,
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true, clientAuth: true },
      {
        name: 'subjectAltName',
        altNames: options.hosts.map((host) =>
          isIP(host) === 0 ? { type: 2, value: host } : { type: 7, ip: host },
        ),
      },
    ],
  })
  return { cert: lines(made.cert), key: lines(made.private) }
}

/** Writes both; the key readable by its owner alone, and each file whole or not at all. */
export function writeCertificate(files: KeyPairPem, pair: KeyPairPem): void {
  write(files.key, pair.key, 0o600)
  write(files.cert, pair.cert, 0o644)
}

function write(file: string, text: string, mode: number): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(`${file}.new`, text, { mode })
  renameSync(`${file}.new`, file)
}

/** Ends with a newline, so that files can be joined by `cat`. */
function lines(pem: string): string {
  return `${pem.replaceAll('\r', '').trimEnd()}\n`
}

/** Begins a while ago, for clocks that are behind. */
function lifetime(nowMs: number, lifetimeMs: number): { notBeforeDate: Date; notAfterDate: Date } {
  return {
    notBeforeDate: new Date(nowMs - 3_600_000),
    notAfterDate: new Date(nowMs + lifetimeMs),
  }
}
