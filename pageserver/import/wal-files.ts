/**
 * WAL of a backup in segment files: where it ends, whether it makes the backup consistent, and the
 * bytes for ingest. Segments lie in one or more folders; the first that has one wins.
 */
import { existsSync } from 'node:fs'
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import {
  formatLsn,
  type Lsn,
  parseSegmentFileName,
  readLsnLE,
  segmentFileName,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
} from '#libs/lsn.ts'
import { type Checkpoint, readCheckpoint } from '#libs/pg/checkpoint.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { RMGR, XLOG_INFO, XLR_RMGR_INFO_MASK } from '#libs/wal/format.ts'
import { checkPageHeader } from '#libs/wal/page-header.ts'
import { RecordFramer } from '#libs/wal/record-framer.ts'
import type { BackupLabel } from './backup-label.ts'

const READ_BYTES = 1024 * 1024
const HEADER_BYTES = 40

export interface WalExtent {
  /** End of the last whole record. */
  endLsn: Lsn
  /** From here on the backup is consistent: the end of the record that says that it is complete. */
  consistentLsn: Lsn
  /** What the backup's checkpoint record holds. */
  checkpoint: Checkpoint
}

export class WalFiles {
  readonly #folders: readonly string[]

  constructor(folders: readonly string[]) {
    this.#folders = folders
  }

  /**
   * Reads all WAL from the backup's start on. Throws `corrupt` when it is damaged before its end or
   * does not reach where the backup is complete, `unsupported` for another WAL timeline.
   */
  async extent(label: BackupLabel, signal: AbortSignal): Promise<WalExtent> {
    await this.#checkTimelines()
    const framer = new RecordFramer(label.startLsn)
    const record = new DecodedRecord()
    let checkpoint: Checkpoint | null = null
    let consistentLsn: Lsn | null = null
    const look = () => {
      for (let index = 0; index < framer.count; index += 1) {
        if (framer.rmid[index] !== RMGR.XLOG) continue
        framer.decode(index, record)
        if (record.startLsn === label.checkpointLsn) {
          checkpoint = readCheckpoint(record.buffer, record.mainOffset)
        }
        const isEnd = (record.info & XLR_RMGR_INFO_MASK) === XLOG_INFO.BACKUP_END
        if (isEnd && readLsnLE(record.buffer, record.mainOffset) === label.startLsn) {
          consistentLsn ??= framer.endLsn[index] as number
        }
      }
    }
    let damage: string | null = null
    for await (const chunk of this.bytes(label.startLsn, signal)) {
      try {
        framer.feed(chunk)
      } catch (error) {
        damage = errorMessage(error)
      }
      look()
      if (damage !== null) break
    }
    const endLsn = framer.recordEndLsn
    if (damage !== null) await this.#checkNothingFollows(endLsn, damage)
    return complete(label, { endLsn, consistentLsn, checkpoint }, damage)
  }

  /** Bytes from `startLsn` on, until a segment is missing or `endLsn` is reached. */
  async *bytes(
    startLsn: Lsn,
    signal: AbortSignal,
    endLsn: Lsn = Number.MAX_SAFE_INTEGER,
  ): AsyncGenerator<Buffer> {
    let at = startLsn
    while (at < endLsn) {
      const path = this.#find(segmentNumber(at))
      if (path === null) return
      const file = await open(path, 'r')
      try {
        const { size } = await file.stat()
        if (size !== WAL_SEGMENT_SIZE) {
          throw new ZenithError(
            'unsupported',
            `the WAL segment ${path} has ${size} bytes, not ${WAL_SEGMENT_SIZE}`,
            { hint: 'Only segments of 16 MiB, the default, can be imported, uncompressed.' },
          )
        }
        do {
          signal.throwIfAborted()
          const left = Math.min(WAL_SEGMENT_SIZE - segmentOffset(at), endLsn - at, READ_BYTES)
          const chunk = Buffer.allocUnsafe(left)
          const { bytesRead } = await file.read(chunk, 0, left, segmentOffset(at))
          if (bytesRead === 0) return
          at += bytesRead
          yield chunk.subarray(0, bytesRead)
        } while (segmentOffset(at) !== 0 && at < endLsn)
      } finally {
        await file.close()
      }
    }
  }

  #find(segment: number): string | null {
    for (const folder of this.#folders) {
      const path = join(folder, segmentFileName(1, segment))
      if (existsSync(path)) return path
    }
    return null
  }

  async #checkTimelines(): Promise<void> {
    for (const folder of this.#folders) {
      for (const name of await readdir(folder)) {
        const walTimeline = parseSegmentFileName(name)?.walTimeline ?? 1
        if (walTimeline === 1) continue
        throw new ZenithError(
          'unsupported',
          `${folder} holds WAL of timeline ${walTimeline}, as after a promotion`,
          { hint: 'Only WAL timeline 1 can be imported; leave the segments of others out.' },
        )
      }
    }
  }

  /**
   * The end of WAL looks like damage: zeros, or what the file held before. But if the next segment
   * is real, the bytes in between were meant to be WAL.
   */
  async #checkNothingFollows(endLsn: Lsn, damage: string): Promise<void> {
    const next = segmentNumber(endLsn) + 1
    const path = this.#find(next)
    if (path === null) return
    const file = await open(path, 'r')
    const header = Buffer.alloc(HEADER_BYTES)
    try {
      await file.read(header, 0, HEADER_BYTES, 0)
    } finally {
      await file.close()
    }
    try {
      checkPageHeader(header, 0, next * WAL_SEGMENT_SIZE)
    } catch {
      return
    }
    throw new ZenithError('corrupt', `the WAL is damaged after ${formatLsn(endLsn)}: ${damage}`, {
      hint: 'Copy the segment anew from the archive, or leave the later segments out.',
    })
  }
}

function complete(
  label: BackupLabel,
  found: { endLsn: Lsn; consistentLsn: Lsn | null; checkpoint: Checkpoint | null },
  damage: string | null,
): WalExtent {
  const { endLsn, consistentLsn, checkpoint } = found
  const from = formatLsn(label.startLsn)
  if (consistentLsn !== null && checkpoint !== null) return { endLsn, consistentLsn, checkpoint }
  const reach =
    endLsn === label.startLsn
      ? `there is no WAL at ${from}`
      : `it reaches from ${from} to ${formatLsn(endLsn)}`
  const why = damage === null ? '' : ` (${damage})`
  throw new ZenithError(
    'corrupt',
    `the WAL does not make the backup consistent: ${reach}, before the backup was complete${why}`,
    { hint: 'Name the folder with the rest of it: --wal <folder>.' },
  )
}
