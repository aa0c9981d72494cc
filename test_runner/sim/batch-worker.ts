/** A thread of a batch: runs ranges of seeds as it is told. */
import { parentPort } from 'node:worker_threads'
import { runBatch } from './batch.ts'

interface Order {
  first: number
  count: number
}

parentPort?.on('message', (order: Order) => {
  parentPort?.postMessage(runBatch(order.first, order.count))
})
