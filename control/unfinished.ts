/** Going on with what is unfinished, one after the other. */
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'

/** One that must wait, since a service is away, does not hold up the next; the log says why it waits. */
export async function resumeEach<T extends { tenantId: string; timelineId?: string }>(
  items: readonly T[],
  options: { log: Logger; what: string },
  work: (item: T) => Promise<unknown>,
): Promise<void> {
  for (const item of items) {
    try {
      await work(item)
    } catch (error) {
      const { tenantId, timelineId } = item
      const facts = { tenantId, ...(timelineId && { timelineId }), reason: errorMessage(error) }
      options.log.warn(facts, `${options.what} must wait`)
    }
  }
}
