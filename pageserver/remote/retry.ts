/** Tries again what object storage could not do, with growing pauses of random length. */
import { setTimeout as sleep } from 'node:timers/promises'
import { ZenithError, type ErrorCode } from '#libs/errors.ts'

export interface RetryOptions {
  /** Aborted when nobody wants the result any more; then `unavailable` is thrown. */
  signal: AbortSignal
  firstMs?: number
  lastMs?: number
  /** After so many attempts the last error is thrown; default: never. */
  attempts?: number
  onRetry?: (error: unknown, attempt: number) => void
}

const FIRST_MS = 100
const LAST_MS = 10_000
/** What another attempt does not change. */
const FINAL: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'already_exists',
  'not_found',
  'out_of_range',
  'invalid_argument',
  'fenced',
  'corrupt',
  'internal',
])

/**
 * Gives what `work` gives. Throws at once what no repetition mends, the last error once the
 * attempts are used up, and `unavailable` when the signal says stop.
 */
export async function retry<T>(work: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { signal, firstMs = FIRST_MS, lastMs = LAST_MS, attempts = Infinity } = options
  let pauseMs = firstMs
  for (let attempt = 1; ; attempt++) {
    if (signal.aborted) throw stopped()
    try {
      return await work()
    } catch (error) {
      if (error instanceof ZenithError && FINAL.has(error.code)) throw error
      if (attempt >= attempts) throw error
      options.onRetry?.(error, attempt)
    }
    await sleep(pauseMs * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => {
      throw stopped()
    })
    pauseMs = Math.min(pauseMs * 2, lastMs)
  }
}

/** Waits for the promise, but not beyond the abortion, which throws `unavailable`. */
export async function orStopped<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) throw stopped()
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = () => reject(stopped())
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

function stopped(): ZenithError {
  return new ZenithError('unavailable', 'the timeline is closed while its objects are written')
}
