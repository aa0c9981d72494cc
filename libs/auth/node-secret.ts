/**
 * How a pageserver or safekeeper shows the control plane who it is: a secret of its own in a file
 * that `zenith start` puts into its folder. All are derived from one secret that only the control
 * plane's folder holds, so that the control plane stores nothing per node.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { errorMessage, ZenithError } from '../errors.ts'

const SECRET = /^[0-9a-f]{64}$/

/** The secret of one node, 64 hex digits. */
export function nodeSecret(master: string, kind: 'pageserver' | 'safekeeper', id: number): string {
  return createHmac('sha256', Buffer.from(master, 'hex')).update(`node ${kind}/${id}`).digest('hex')
}

/** Compares in a time that tells nothing about where they differ. */
export function secretsEqual(one: string, other: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(one), digest(other))
}

export function newSecret(): string {
  return randomBytes(32).toString('hex')
}

/** Throws `invalid_argument` when the file is missing or holds something else. */
export function readSecret(file: string): string {
  let text: string
  try {
    text = readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new ZenithError('invalid_argument', `cannot read ${file}: ${errorMessage(error)}`)
  }
  if (SECRET.test(text)) return text
  throw new ZenithError('invalid_argument', `${file} does not hold a secret of 64 hex digits`)
}

/** Writes a secret that only the owner can read. */
export function writeSecret(file: string, secret: string): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(`${file}.new`, `${secret}\n`, { mode: 0o600 })
  chmodSync(`${file}.new`, 0o600)
  renameSync(`${file}.new`, file)
}
