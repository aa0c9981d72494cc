/** What the state of a timeline allows, and the sentence that refuses the rest. */
import { ZenithError } from '#libs/errors.ts'
import type { TimelineRecord } from './records.ts'

/** Throws `conflict` unless computes may run on it and branches may be made of it. */
export function checkActive({ branch, state }: Pick<TimelineRecord, 'branch' | 'state'>): void {
  switch (state) {
    case 'active':
      return
    case 'creating':
      throw new ZenithError('conflict', `Branch "${branch}" is still being created.`, {
        hint: 'Try again in a moment.',
      })
    case 'archiving':
    case 'archived':
      throw new ZenithError('conflict', `Branch "${branch}" is archived.`, {
        hint: `Bring it back first: zenith branch unarchive ${branch}.`,
      })
    case 'unarchiving':
      throw new ZenithError('conflict', `Branch "${branch}" is just being brought back.`, {
        hint: 'Try again in a moment.',
      })
    case 'deleting':
      throw new ZenithError('conflict', `Branch "${branch}" is being deleted.`)
  }
}
