/**
 * WAL from before the start of a compute, for replication slots that continue there. A data folder
 * has none: the pages before its start are zeros that pretend to be the tail of a record. This
 * fetches the real segments from a safekeeper before Postgres starts, so that no process ever sees
 * the zeros where a slot reads.
 */
import { closeSync, constants, ftruncateSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import {
  formatLsn,
  type Lsn,
  segmentFileName,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
} from '#libs/lsn.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'
import type { Member } from '#libs/protocol/wal-push.ts'
import { giveTo } from '#libs/system-user.ts'
import { DonorReader } from '#libs/pgwire/donor-reader.ts'

/** A safekeeper that sends nothing for so long is given up for the next one. */
const STALL_MS = 15_000
const PROGRESS_BYTES = 1024 * 1024 * 1024

export interface OldWalOptions {
  dataFolder: string
  /** Oldest WAL position needed; the whole of its segment is fetched. */
  fromLsn: Lsn
  /** Where the compute starts. What the base backup has from there on stays. */
  startLsn: Lsn
  term: number
  safekeepers: readonly Member[]
  target: SessionTarget
  log: Logger
}

/** Throws `unavailable` when no safekeeper could give all of it. */
export async function fetchOldWal(options: OldWalOptions): Promise<void> {
  const { fromLsn, startLsn, safekeepers, log } = options
  const files = new SegmentFiles(options.dataFolder)
  const startedAt = performance.now()
  const beginLsn = fromLsn - segmentOffset(fromLsn)
  let nextLsn = beginLsn
  const failures: string[] = []
  try {
    for (const safekeeper of safekeepers) {
      if (nextLsn >= startLsn) break
      const error = await readFrom(safekeeper, nextLsn, options, (lsn, wal) => {
        files.write(lsn, wal)
        nextLsn = lsn + wal.length
        if (Math.floor(nextLsn / PROGRESS_BYTES) > Math.floor(lsn / PROGRESS_BYTES)) {
          const progress = { at: formatLsn(nextLsn), to: formatLsn(startLsn) }
          log.info(progress, 'fetching WAL that replication slots need')
        }
      })
      if (error !== null) failures.push(`${safekeeper.id}: ${errorMessage(error)}`)
    }
  } finally {
    files.close()
  }
  if (nextLsn < startLsn) {
    throw new ZenithError(
      'unavailable',
      `no safekeeper gave the WAL from ${formatLsn(nextLsn)} to ${formatLsn(startLsn)}, which replication slots need (${failures.join('; ')})`,
    )
  }
  const elapsedMs = Math.round(performance.now() - startedAt)
  const fetched = { from: formatLsn(beginLsn), byteCount: startLsn - beginLsn, elapsedMs }
  log.info(fetched, 'fetched the WAL that replication slots need')
}

/** Reads from one safekeeper to the end; resolves with what broke it off, or null. */
function readFrom(
  donor: Member,
  beginLsn: Lsn,
  { startLsn, term, target }: OldWalOptions,
  take: (lsn: Lsn, wal: Buffer) => void,
): Promise<Error | null> {
  return new Promise((resolve) => {
    const end = (error: Error | null) => {
      clearTimeout(timer)
      resolve(error)
    }
    const reader = new DonorReader({
      donor,
      target,
      term,
      beginLsn,
      endLsn: startLsn,
      applicationName: 'walproposer-recovery',
      onWal: (lsn, wal) => {
        timer.refresh()
        take(lsn, wal)
        return true
      },
      onEnd: end,
    })
    const timer = setTimeout(() => {
      reader.close()
      end(new ZenithError('timeout', `it sent nothing for ${STALL_MS / 1000} s`))
    }, STALL_MS)
  })
}

/** Writes WAL in order into the segments of a data folder, one file open at a time. */
class SegmentFiles {
  readonly #folder: string
  #segment = -1
  #descriptor = -1

  constructor(dataFolder: string) {
    this.#folder = join(dataFolder, 'pg_wal')
  }

  /** A piece never reaches into the next segment (protocols/wal-stream.md). */
  write(lsn: Lsn, wal: Buffer): void {
    if (segmentNumber(lsn) !== this.#segment) this.#open(segmentNumber(lsn))
    for (let done = 0; done < wal.length; ) {
      const offset = segmentOffset(lsn) + done
      done += writeSync(this.#descriptor, wal, done, wal.length - done, offset)
    }
  }

  close(): void {
    if (this.#descriptor >= 0) closeSync(this.#descriptor)
    this.#descriptor = -1
    this.#segment = -1
  }

  #open(segment: number): void {
    this.close()
    const path = join(this.#folder, segmentFileName(1, segment))
    this.#descriptor = openSync(path, constants.O_WRONLY | constants.O_CREAT, 0o600)
    this.#segment = segment
    // Only the last one exists already, with what the base backup put there.
    ftruncateSync(this.#descriptor, WAL_SEGMENT_SIZE)
    giveTo(path)
  }
}
