/**
 * Stops everything in order: computes first, as a clean stop of Postgres still needs safekeepers;
 * then the pageservers, the safekeepers and the control plane.
 */
import { ZenithError } from '#libs/errors.ts'
import { type ComputeProcess, liveComputes, stopCompute } from './computes.ts'
import type { Installation, Service } from './installation.ts'
import { processState } from './process-record.ts'
import { probeHealth, stopProcess } from './service-process.ts'

export interface StopReport {
  stopped(title: string, durationMs: number): void
  /** A compute that would not stop cleanly; the rest goes on. */
  failed(title: string, reason: string): void
}

/** Returns how many processes were stopped. With `immediate` all are killed, in the same order. */
export async function stopServices(
  installation: Installation,
  report: StopReport,
  options: { immediate?: boolean } = {},
): Promise<number> {
  const immediate = options.immediate === true
  let count = 0
  const stop = async (title: string, run: () => Promise<boolean>): Promise<void> => {
    const startMs = Date.now()
    if (!(await run())) return
    count += 1
    report.stopped(title, Date.now() - startMs)
  }

  const computes = liveComputes(installation)
  const throughControl = !immediate && computes.length > 0 && (await isUp(installation.control))
  const results = await Promise.allSettled(
    computes.map((compute) =>
      stop(compute.title, () => stopOne(installation, compute, { throughControl, immediate })),
    ),
  )
  for (const [index, result] of results.entries()) {
    if (result.status === 'fulfilled') continue
    const title = computes[index]?.title ?? 'Postgres'
    // Storage must stay up while a compute still has something to commit.
    report.failed(title, result.reason instanceof Error ? result.reason.message : 'unknown')
  }
  if (results.some(({ status }) => status === 'rejected')) {
    throw new ZenithError('timeout', 'Not every Postgres has stopped, so the storage still runs.', {
      hint: 'Repeat "zenith stop", or use "zenith stop --immediate": no committed data is lost.',
    })
  }

  const { pageservers, safekeepers, control } = installation
  for (const group of [pageservers, safekeepers, [control]]) {
    await Promise.all(
      group.map((one) => stop(capitalized(one.title), () => stopProcess(one, { immediate }))),
    )
  }
  return count
}

async function stopOne(
  installation: Installation,
  compute: ComputeProcess,
  how: { throughControl: boolean; immediate: boolean },
): Promise<boolean> {
  if (how.throughControl) {
    try {
      await stopCompute(installation, compute.tenantId, compute.endpoint)
      return true
    } catch (error) {
      // The control plane may not know this process; its own signal works as well.
      if (!(error instanceof ZenithError) || error.code === 'timeout') throw error
    }
  }
  return await stopProcess(compute, { immediate: how.immediate })
}

async function isUp(service: Service): Promise<boolean> {
  if (processState(service.pidFile).kind !== 'alive') return false
  return (await probeHealth(service, 2_000)).healthy
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
