/**
 * Brings reports to the control plane in order, the newest wins: while one cannot be delivered, a
 * later one replaces it. The control plane may be down; a compute serves its clients regardless.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type { EndpointReport } from '#libs/api/endpoint-info.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'

const RETRY_MS = 500
/** The last report is worth this much waiting, no more: the control plane finds out by itself. */
const LAST_REPORT_MS = 3_000

export class Reporter {
  readonly #spec: ComputeSpec
  readonly #log: Logger
  #pending: EndpointReport | null = null
  #sending: Promise<void> | null = null

  constructor(spec: ComputeSpec, log: Logger) {
    this.#spec = spec
    this.#log = log
  }

  /** Resolves when the report has arrived, was replaced by a later one, or was given up. */
  send(report: EndpointReport): Promise<void> {
    this.#pending = report
    this.#sending ??= this.#drain()
    return Promise.race([this.#sending, sleep(LAST_REPORT_MS)])
  }

  async #drain(): Promise<void> {
    // Loaded on first use: an election need not wait for it.
    const { callControl } = await import('#libs/api/control-client.ts')
    const { tenantId, endpoint: name, controlPlaneUrl } = this.#spec
    while (this.#pending !== null) {
      const report = this.#pending
      try {
        const options = { params: { tenantId, name }, body: report, timeoutMs: 5_000 }
        await callControl(controlPlaneUrl, 'reportEndpoint', options)
        if (this.#pending === report) this.#pending = null
      } catch (error) {
        this.#log.warn({ reason: errorMessage(error) }, 'the control plane did not take a report')
        const lasting = error instanceof ZenithError && error.code === 'not_found'
        if (lasting && this.#pending === report) this.#pending = null
        if (!lasting) await sleep(RETRY_MS)
      }
    }
    // In the same turn as the last look at #pending, so that no report falls between.
    this.#sending = null
  }
}
