/** What the page server's main thread and its compaction thread tell each other. */
import type { ErrorCode } from '#libs/errors.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { CompactionJob } from './job.ts'

export interface WorkerConfig {
  postgresPrefix: string
  /** Folder of the thread's own redo processes. */
  redoDir: string
  redoProcesses: number
}

export interface FetchRequest {
  type: 'fetch'
  id: number
  /** Of the object. */
  name: string
  /** What to send back, or null. */
  range: { offset: number; length: number } | null
  /** Where to put all of it, or null. */
  path: string | null
}

export type FromWorker =
  | { type: 'done'; entries: LayerEntry[] }
  | { type: 'failed'; code: ErrorCode; message: string }
  | FetchRequest

export type ToWorker =
  | { type: 'job'; job: CompactionJob }
  | { type: 'stop' }
  | {
      type: 'fetched'
      id: number
      bytes: Uint8Array | null
      error: { code: ErrorCode; message: string } | null
    }
