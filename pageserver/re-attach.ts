/** Asks the control plane which tenants are ours, until it answers. */
import type { ReAttachResponse } from '#libs/api/control.ts'
import { callControl } from '#libs/api/control-client.ts'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { setTimeout as sleep } from 'node:timers/promises'

const FIRST_RETRY_MS = 100
const LAST_RETRY_MS = 2000
const TIMEOUT_MS = 10_000

export interface ReAttachOptions {
  controlPlaneUrl: string
  pageserverId: number
  log: Logger
  /** Aborted when the process stops; then the wait ends with an AbortError. */
  signal: AbortSignal
  /** Told each time the control plane did not answer. */
  onWaiting: (reason: string) => void
}

/**
 * The answer raises the generation of each tenant, durably, so that whatever an older run of this
 * pageserver still writes to object storage is told apart from what we write.
 */
export async function reAttach(options: ReAttachOptions): Promise<ReAttachResponse> {
  const { controlPlaneUrl, pageserverId, log, signal } = options
  let retryMs = FIRST_RETRY_MS
  for (let lastReason = ''; ; ) {
    try {
      return await callControl(controlPlaneUrl, 'reAttach', {
        body: { pageserverId },
        timeoutMs: TIMEOUT_MS,
      })
    } catch (error) {
      const reason = errorMessage(error)
      if (reason !== lastReason) log.warn(`waiting for the control plane: ${reason}`)
      lastReason = reason
      options.onWaiting(`starting: waiting for the control plane at ${controlPlaneUrl}`)
    }
    await sleep(retryMs, undefined, { signal })
    retryMs = Math.min(retryMs * 2, LAST_RETRY_MS)
  }
}
