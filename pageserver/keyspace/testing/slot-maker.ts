/** A thread that interns the prefixes (0, 1, 2, rel, 0) of a shared table, up to a count, and tells their slots. */
import { parentPort, workerData } from 'node:worker_threads'
import { SlotTable, type SlotTableDescription } from '../slot-table.ts'

const { description, count } = workerData as { description: SlotTableDescription; count: number }
const slots = SlotTable.open(description)
parentPort?.postMessage('ready')
parentPort?.once('message', () => {
  const made = new Uint32Array(count)
  for (let rel = 0; rel < count; rel++) made[rel] = slots.intern(0, 1, 2, rel, 0)
  parentPort?.postMessage(made)
})
