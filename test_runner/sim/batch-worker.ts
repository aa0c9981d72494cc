/** A thread of a batch: runs ranges of seeds as it is told. */
import { parentPort } from 'node:worker_threads'
import { runBatch } from './batch.ts'

interface Order {
  first: number
  count: number
  repeatEvery: number
}

parentPort?.on('message', ({ first, count, repeatEvery }: Order) => {
  parentPort?.postMessage(runBatch(first, count, { repeatEvery }))
})
