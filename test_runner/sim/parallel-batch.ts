/** Splits a batch of seeds over threads, in small pieces so that all end together. */
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { addReport, type BatchOptions, type BatchReport, emptyReport } from './batch.ts'

const PIECE = 25

/** As `runBatch`. */
export async function runParallelBatch(
  first: number,
  count: number,
  { repeatEvery = 1 }: Pick<BatchOptions, 'repeatEvery'> = {},
): Promise<BatchReport> {
  const total = emptyReport()
  let next = first
  const end = first + count
  const work = async (worker: Worker): Promise<void> => {
    while (next < end && total.failures.length === 0) {
      const order = { first: next, count: Math.min(PIECE, end - next), repeatEvery }
      next += order.count
      const report = await new Promise<BatchReport>((resolve, reject) => {
        worker.once('message', resolve)
        worker.once('error', reject)
        worker.postMessage(order)
      })
      worker.removeAllListeners('error')
      addReport(total, report)
    }
  }
  const workers = Array.from(
    { length: Math.min(availableParallelism(), Math.ceil(count / PIECE)) },
    () => new Worker(new URL('./batch-worker.ts', import.meta.url)),
  )
  try {
    await Promise.all(workers.map(work))
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()))
  }
  return total
}
