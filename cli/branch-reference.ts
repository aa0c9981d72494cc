/** How a place to branch from is written: `main`, `main@0/1609610`, or `@0/1609610` on main. */
import { ZenithError } from '#libs/errors.ts'

const LSN_TEXT = /^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/

export interface BranchReference {
  readonly branch: string
  readonly lsn: string | null
}

/** Throws `invalid_argument` for something after `@` that is no LSN. */
export function parseBranchReference(text: string): BranchReference {
  const at = text.indexOf('@')
  if (at < 0) return { branch: text, lsn: null }
  const lsn = text.slice(at + 1)
  if (!LSN_TEXT.test(lsn)) {
    throw new ZenithError('invalid_argument', `"${lsn}" is not an LSN, as in main@0/1609610.`, {
      hint: '"zenith timeline list" shows the LSNs of each branch.',
    })
  }
  return { branch: text.slice(0, at) || 'main', lsn }
}
