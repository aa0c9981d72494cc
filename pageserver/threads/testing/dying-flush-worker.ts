/** A flush thread that dies of an error that nobody catches, at its first layer. */
import { parentPort } from 'node:worker_threads'

parentPort?.on('message', () => {
  throw new Error('the thread dies of this')
})
