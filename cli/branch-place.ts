/** How a state of a branch is written: `main`, `main@0/1609610`, `main@2026-11-21T15:28:08Z`. */
import { ZenithError } from '#libs/errors.ts'
import { parseTimestamp } from '#libs/pg/timestamp.ts'

const LSN_TEXT = /^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/

export function isLsnText(text: string): boolean {
  return LSN_TEXT.test(text)
}

export interface BranchPlace {
  readonly branch: string
  readonly lsn?: string
  readonly at?: string
}

/** Throws `invalid_argument` for something after `@` that is neither an LSN nor a moment. */
export function parsePlace(text: string): BranchPlace {
  const split = text.indexOf('@')
  if (split < 0) return { branch: text }
  const branch = text.slice(0, split) || 'main'
  const where = text.slice(split + 1)
  if (isLsnText(where)) return { branch, lsn: where }
  try {
    parseTimestamp(where)
  } catch {
    throw new ZenithError('invalid_argument', `"${where}" is neither an LSN nor a time.`, {
      hint: 'A state is named as main@0/1609610 or main@2026-11-21T15:28:08Z.',
    })
  }
  return { branch, at: where }
}
