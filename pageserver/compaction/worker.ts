/**
 * The compaction thread: performs one job after the other, with redo processes of its own. Layers
 * that are not on local disk come through the main thread, which alone talks to object storage.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import { createLogger } from '#libs/log.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { applyNativeOp } from '../ingest/native-op.ts'
import type { PageRedo } from '../read/reconstruct.ts'
import { RedoPool } from '../redo/redo-pool.ts'
import { COMPACTION_NICENESS, giveWay } from '../threads/background.ts'
import { performJob } from './perform.ts'
import type { FetchRequest, FromWorker, ToWorker, WorkerConfig } from './worker-message.ts'

assert(parentPort !== null, 'the compaction worker runs as a thread of the page server')
const port = parentPort
const config = workerData as WorkerConfig
const log = createLogger('pageserver')
giveWay(COMPACTION_NICENESS)

let isStopping = false
let pool: RedoPool | null = null
let lastFetch = 0
const fetching = new Map<number, (answer: Extract<ToWorker, { type: 'fetched' }>) => void>()

const redo: PageRedo = {
  apply(tag, base, endLsns, records) {
    pool ??= new RedoPool({
      postgresPrefix: config.postgresPrefix,
      workDir: config.redoDir,
      log,
      maxProcesses: config.redoProcesses,
    })
    return pool.apply(tag, base, endLsns, records)
  },
}

function send(message: FromWorker): void {
  port.postMessage(message)
}

async function fetchObject(request: Omit<FetchRequest, 'type' | 'id'>): Promise<Buffer> {
  const id = ++lastFetch
  const { bytes, error } = await new Promise<Extract<ToWorker, { type: 'fetched' }>>((resolve) => {
    fetching.set(id, resolve)
    send({ type: 'fetch', id, ...request })
  })
  if (error) throw new ZenithError(error.code, error.message)
  return bytes === null
    ? Buffer.alloc(0)
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
}

function refuse(): Promise<never> {
  return Promise.reject(new ZenithError('internal', 'a compaction job only reads object storage'))
}

const store: ObjectStore = {
  getRange: (name, offset, length) => fetchObject({ name, range: { offset, length }, path: null }),
  getFile: async (name, path) => {
    await fetchObject({ name, range: null, path })
  },
  get: refuse,
  size: refuse,
  put: refuse,
  putFile: refuse,
  list: refuse,
  delete: refuse,
  deleteAll: refuse,
}

port.on('message', (message: ToWorker) => {
  if (message.type === 'stop') isStopping = true
  else if (message.type === 'fetched') {
    fetching.get(message.id)?.(message)
    fetching.delete(message.id)
  } else {
    isStopping = false
    const place = { store, appliers: { redo, applyNativeOp }, isStopping: () => isStopping }
    performJob(message.job, place).then(
      (entries) => send({ type: 'done', entries }),
      (error: unknown) => {
        const code = error instanceof ZenithError ? error.code : 'internal'
        send({ type: 'failed', code, message: errorMessage(error) })
      },
    )
  }
})
