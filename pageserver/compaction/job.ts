/**
 * What a compaction job is: plain data, so that it can be sent to another thread. It names layers
 * and local folders and says what is wanted; it gives new layer files, durable under their names in
 * the timeline's folder, and their entries. The timeline then enters them by `LayerStore.change`.
 */
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { KeyRange } from '../keyspace/key-range.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { LayerOwner } from '../layers/layer-format.ts'
import type { ReadSource } from '../read/read-plan.ts'
import type { Appliers } from '../read/reconstruct.ts'

/** A timeline's layers, or those of them that a job reads. */
export interface JobTimeline {
  /** Local folder of the layer files. */
  folder: string
  /** Folders in object storage, by `placeKey`. */
  objectFolders: Record<string, string>
  layers: LayerEntry[]
  parent: { timeline: JobTimeline; lsn: Lsn } | null
}

interface JobBase {
  tenantId: TenantId
  timelineId: TimelineId
  source: JobTimeline
  owner: LayerOwner
  generation: number
  /** Of a shard; which one it is says `tenantId`. */
  stripeBlocks?: number
  /** Output files are cut at about this size. */
  layerBytes: number
}

/** Merges L0 layers, all of `source.layers`, into L1 layers. */
export interface L0Job extends JobBase {
  kind: 'l0'
}

/** Makes image layers of a range of keys; see `image-job.ts`. */
export interface ImagesJob extends JobBase, KeyRange {
  kind: 'images'
  /** Keys of the layers (`layerKey`) whose keys are imaged. */
  inputs: string[]
  imageLsn: Lsn
  floorLsn: Lsn
  /** The job ends early after so many files. */
  maxFiles: number
}

/** Rewrites a range of keys at and below the last of the points; see `bottommost-job.ts`. */
export interface BottomJob extends JobBase, KeyRange {
  kind: 'bottom'
  /** Keys of the layers that are rewritten. */
  inputs: string[]
  points: Lsn[]
  oldestLsn: Lsn
  hasBase: boolean
}

/** Writes one layer anew that was taken over at a split, with our keys alone; see `own-job.ts`. */
export interface OwnJob extends JobBase {
  kind: 'own'
}

export type CompactionJob = L0Job | ImagesJob | BottomJob | OwnJob
export type JobKind = CompactionJob['kind']

/** In order of precedence. */
export const JOB_KINDS: readonly JobKind[] = ['l0', 'images', 'bottom', 'own']

/** What a job finds where it runs. */
export interface JobEnv {
  /** Of this job alone. */
  slots: SlotTable
  /** Redo processes are started at first use, and kept for the jobs after. */
  appliers: Appliers
  /** Layers of the job's own over the local files; closed when the job ends. */
  open(timeline: JobTimeline): ReadSource
  /**
   * True when the job is to make room for a more urgent one. Asked after each finished layer: what
   * can be used as it is may be returned, else the job throws `unavailable`.
   */
  isStopping(): boolean
}

/** Runs jobs, somewhere. */
export interface CompactionRunner {
  /**
   * The layers that the job made. `stop` asks it to end early. Rejects with what the job threw, or
   * `unavailable` when what ran it is gone.
   */
  run(job: CompactionJob, stop?: AbortSignal): Promise<LayerEntry[]>
  /** Ends the job under way, if any: it rejects. */
  close(): Promise<void>
}
