/** Asks the control plane which tenants are ours, until it answers. */
import type { ReAttachResponse } from '#libs/api/nodes.ts'
import { callControl } from '#libs/api/control-client.ts'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { setTimeout as sleep } from 'node:timers/promises'

const FIRST_RETRY_MS = 100
const LAST_RETRY_MS = 2000
const TIMEOUT_MS = 10_000
/** A wait that goes on is logged again this often. */
const REMINDER_MS = 30_000

export interface ReAttachOptions {
  controlPlaneUrl: string
  pageserverId: number
  log: Logger
  /** Aborted when the process stops; then the wait ends with an AbortError. */
  signal: AbortSignal
  /** Told each time the control plane did not answer, with what went wrong. */
  onWaiting: (problem: string) => void
}

/**
 * The answer raises the generation of each tenant, durably, so that whatever an older run of this
 * pageserver still writes to object storage is told apart from what we write.
 */
export async function reAttach(options: ReAttachOptions): Promise<ReAttachResponse> {
  const { controlPlaneUrl, pageserverId, log, signal, onWaiting } = options
  const beganAt = performance.now()
  const waitedS = () => Math.round((performance.now() - beganAt) / 1000)
  let retryMs = FIRST_RETRY_MS
  let [lastProblem, loggedAt] = ['', beganAt]
  while (true) {
    try {
      const answer = await callControl(controlPlaneUrl, 'reAttach', {
        body: { pageserverId },
        timeoutMs: TIMEOUT_MS,
      })
      if (lastProblem !== '') log.info(`the control plane has answered after ${waitedS()} s`)
      return answer
    } catch (error) {
      const problem = errorMessage(error)
      if (problem !== lastProblem || performance.now() - loggedAt >= REMINDER_MS) {
        loggedAt = performance.now()
        log.warn(
          { waitedS: waitedS() },
          `waiting for the control plane at ${controlPlaneUrl}, which has to confirm our tenants ` +
            `before they are read: ${problem}`,
        )
      }
      lastProblem = problem
      onWaiting(problem)
    }
    await sleep(retryMs, undefined, { signal })
    retryMs = Math.min(retryMs * 2, LAST_RETRY_MS)
  }
}
