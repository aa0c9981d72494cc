/**
 * Takes a cleanly stopped data folder into a timeline: every page of every relation and SLRU as an
 * image at one LSN, and the blobs beside them. The LSN is the end of the folder's last checkpoint
 * record, where the timeline's WAL will begin.
 */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { type ControlFile, DB_STATE, parseControlFile } from '#libs/pg/control-file.ts'
import { PG_MAJOR_VERSION } from '../basebackup/data-folder.ts'
import { shutdownCheckpointEnd } from '../basebackup/shutdown-checkpoint.ts'
import { initialCheckpointState } from '../ingest/checkpoint-state.ts'
import { isPageClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { type ClusterPiece, clusterPieces, listed, type ReadOptions } from './cluster-files.ts'

const NOTHING = Buffer.alloc(0)
const ZERO_PAGE = Buffer.alloc(PAGE_SIZE)
/** Pieces that are taken in at a stretch; others are served in between. */
const PIECES_AT_ONCE = 16

export interface ImportResult {
  /** The timeline's first LSN. */
  startLsn: Lsn
  pages: number
}

/**
 * pg_control of a cluster that somebody wants imported. Throws `not_found` when there is no data
 * folder, `unsupported` for what a timeline cannot hold; what the import itself checks comes later.
 */
export async function readClusterControl(folder: string): Promise<ControlFile> {
  const versionFile = join(folder, 'PG_VERSION')
  if (!existsSync(versionFile)) {
    throw new ZenithError('not_found', `${folder} is no data folder of Postgres`, {
      hint: 'Name a folder that the pageserver can read, with PG_VERSION in it.',
    })
  }
  const version = (await readFile(versionFile, 'utf8')).trim()
  if (version !== PG_MAJOR_VERSION) {
    throw new ZenithError('unsupported', `${folder} belongs to Postgres ${version}`, {
      hint: `Only clusters of Postgres ${PG_MAJOR_VERSION} can be imported; run pg_upgrade first.`,
    })
  }
  const control = parseControlFile(await readFile(join(folder, 'global', 'pg_control')))
  if (control.checkpoint.walTimeline !== 1) {
    const { walTimeline } = control.checkpoint
    throw new ZenithError('unsupported', `${folder} is on WAL timeline ${walTimeline}, not 1`, {
      hint: 'It was promoted at some time; dump and restore its databases instead.',
    })
  }
  if ((await listed(join(folder, 'pg_tblspc'))).length > 0) {
    throw new ZenithError('unsupported', `${folder} has tablespaces`, {
      hint: 'Move everything to pg_default (ALTER ... SET TABLESPACE) and drop them.',
    })
  }
  return control
}

/** Where the WAL of a timeline made from this cluster starts. Throws if it was not stopped cleanly. */
export function importLsn(control: ControlFile): Lsn {
  if (control.state !== DB_STATE.shutDown) {
    throw new ZenithError('precondition_failed', 'the cluster to import was not shut down cleanly')
  }
  return shutdownCheckpointEnd(control.checkpointLsn)
}

/**
 * Imports the folder into an empty timeline and publishes the result. All of it stays in memory until
 * then, so this is for small clusters: those that initdb makes.
 */
export async function importDataFolder(
  timeline: Timeline,
  folder: string,
  control: ControlFile,
  options: ReadOptions = {},
): Promise<ImportResult> {
  const lsn = importLsn(control)
  const state = initialCheckpointState(control, lsn)
  let pages = 0
  let pieces = 0
  for await (const piece of clusterPieces(folder, control, state, options)) {
    pages += putPiece(timeline, piece, lsn)
    pieces += 1
    if (pieces % PIECES_AT_ONCE === 0) await setImmediate()
    await timeline.waitForRoom()
  }
  timeline.publish(lsn)
  return { startLsn: lsn, pages }
}

function putPiece(timeline: Timeline, piece: ClusterPiece, lsn: Lsn): number {
  const { cls, spc, db, rel, fork, firstBlk, bytes } = piece
  const slot = timeline.slot(cls, spc, db, rel, fork)
  if (!isPageClass(cls)) {
    timeline.put(slot, firstBlk, lsn, ValueKind.Image, bytes, 0, bytes.length)
    return 0
  }
  const blocks = bytes.length / PAGE_SIZE
  for (let index = 0; index < blocks; index += 1) {
    const offset = index * PAGE_SIZE
    const zero = bytes.compare(ZERO_PAGE, 0, PAGE_SIZE, offset, offset + PAGE_SIZE) === 0
    const kind = zero ? ValueKind.ZeroPage : ValueKind.Image
    const length = zero ? 0 : PAGE_SIZE
    const from = zero ? 0 : offset
    timeline.put(slot, firstBlk + index, lsn, kind, zero ? NOTHING : bytes, from, length)
  }
  return blocks
}
