/**
 * The flush thread: writes frozen layers as files, out of memory that it shares with the thread that
 * filled them. When the sync of a file fails the thread ends, and with it the process.
 */
import { parentPort } from 'node:worker_threads'
import { assert } from '#libs/errors.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { OpenLayer } from '../layers/open-layer.ts'
import { writeDeltaFile } from '../timeline/delta-writer.ts'
import { FLUSH_NICENESS, giveWay } from './background.ts'
import type { FlushAnswer, FlushRequest } from './flush-message.ts'
import { freeMemory } from './free-memory.ts'
import { packError } from './thread-error.ts'

/** After a layer of this size its memory is given back at once. */
const LARGE_BYTES = 8 * 1024 * 1024

assert(parentPort !== null, 'the flush worker runs as a thread of the page server')
const port = parentPort
giveWay(FLUSH_NICENESS)

async function write(request: FlushRequest): Promise<number> {
  const { id, path, owner, generation, endLsn } = request
  const memory = OpenLayer.open(request.layer)
  const slots = SlotTable.open(request.slots)
  let answer: FlushAnswer
  try {
    const entry = await writeDeltaFile(memory, { path, owner, generation, endLsn, slots })
    answer = { id, entry, error: null }
  } catch (error) {
    answer = { id, entry: null, error: packError(error) }
  }
  port.postMessage(answer)
  return memory.sizeBytes
}

port.on('message', (request: FlushRequest) => {
  void write(request).then((bytes) => {
    if (bytes >= LARGE_BYTES) setImmediate(freeMemory)
  })
})
