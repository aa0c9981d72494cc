/** A new signing key in the place of the old one, whose tokens are valid until they end. */
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { keyFolders, makeKey } from './key-folder.ts'

/** Longer than any token that is given out, with the clocks' skew. */
const TOKENS_END_MS = 2 * 3_600_000
const KID_TIME = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-/

/**
 * Makes the key that signs from now on. Older private keys go at once, and public keys whose
 * successor was made so long ago that no token of theirs can be valid any more. Returns kids.
 */
export function rotateKeys(authDir: string, now: Date): { made: string; removed: string[] } {
  const { publicDir, privateDir } = keyFolders(authDir)
  const kids = kidsIn(publicDir)
  const made = makeKey(authDir, now)
  for (const kid of kidsIn(privateDir)) {
    if (kid !== made) rmSync(join(privateDir, `${kid}.json`))
  }
  const removed = kids.filter((_, index) => {
    const successor = kids[index + 1]
    const endedAtMs = successor === undefined ? null : kidTimeMs(successor)
    return endedAtMs !== null && now.getTime() - endedAtMs > TOKENS_END_MS
  })
  for (const kid of removed) rmSync(join(publicDir, `${kid}.json`))
  return { made, removed }
}

function kidsIn(dir: string): string[] {
  return readdirSync(dir)
    .filter((name) => name.endsWith('.json'))
    .map((name) => name.slice(0, -'.json'.length))
    .toSorted()
}

/** When a key was made, as its kid says; null for one that somebody named otherwise. */
function kidTimeMs(kid: string): number | null {
  const [match, year, month, day, hour, minute, second] = KID_TIME.exec(kid) ?? []
  if (match === undefined) return null
  return Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
}
