/**
 * WAL read back from object storage, for whoever needs what is not on this disk any more. Whole
 * segments, each checked once when it comes, a few of them kept in memory for all timelines of the
 * process together. Readers go forward, so the next segment is fetched while one is being sent.
 */
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { checkSegment } from './segment-check.ts'
import { segmentObject, type WalOwner } from './wal-objects.ts'

/** Segments in memory at most, those on their way included. */
const MAX_SEGMENTS = 4

export interface ArchivedTimeline extends WalOwner {
  startLsn: Lsn
  /** Everything below is in object storage. */
  backupLsn: Lsn
  /** Segments from here on are on disk. */
  localStartLsn: Lsn
}

export class WalArchive {
  readonly #store: ObjectStore
  readonly #onRead: (bytes: number) => void
  /** By object name, least recently used first. */
  readonly #segments = new Map<string, Promise<Buffer>>()

  /** `onRead` hears of every segment that was fetched. */
  constructor(store: ObjectStore, onRead: (bytes: number) => void) {
    this.#store = store
    this.#onRead = onRead
  }

  /**
   * The bytes of a full segment. Throws `not_found` when it is not backed up, `unavailable` when
   * object storage does not answer, `corrupt` when what is there is no WAL.
   */
  async segment(timeline: ArchivedTimeline, segment: number): Promise<Buffer> {
    if (!isBackedUp(timeline, segment)) {
      const lsn = formatLsn(segment * WAL_SEGMENT_SIZE)
      throw new ZenithError('not_found', `WAL at ${lsn} is neither here nor in object storage`)
    }
    const bytes = await this.#cached(timeline, segment)
    const next = segment + 1
    if (isBackedUp(timeline, next) && (next + 1) * WAL_SEGMENT_SIZE <= timeline.localStartLsn) {
      // Whoever asks for it sees the error; so far nobody needs it.
      this.#cached(timeline, next).catch(() => {})
    }
    return bytes
  }

  #cached(timeline: ArchivedTimeline, segment: number): Promise<Buffer> {
    const name = segmentObject(timeline, segment)
    const known = this.#segments.get(name)
    if (known) {
      this.#segments.delete(name)
      this.#segments.set(name, known)
      return known
    }
    const loading = this.#load(timeline, name, segment * WAL_SEGMENT_SIZE)
    this.#segments.set(name, loading)
    loading.catch(() => {
      if (this.#segments.get(name) === loading) this.#segments.delete(name)
    })
    for (const oldest of this.#segments.keys()) {
      if (this.#segments.size <= MAX_SEGMENTS) break
      this.#segments.delete(oldest)
    }
    return loading
  }

  async #load(timeline: ArchivedTimeline, name: string, segmentLsn: Lsn): Promise<Buffer> {
    let bytes: Buffer
    try {
      bytes = await this.#store.get(name)
    } catch (error) {
      throw new ZenithError(
        'unavailable',
        `WAL at ${formatLsn(segmentLsn)} cannot be read from object storage: ${errorMessage(error)}`,
        {
          cause: error,
          hint: 'It is on no disk here any more. Reading goes on once it can be had.',
        },
      )
    }
    if (bytes.length !== WAL_SEGMENT_SIZE) {
      throw new ZenithError('corrupt', `object ${name} has ${bytes.length} bytes`)
    }
    await checkSegment(bytes, segmentLsn, timeline.startLsn)
    this.#onRead(bytes.length)
    return bytes
  }
}

function isBackedUp(timeline: ArchivedTimeline, segment: number): boolean {
  return (segment + 1) * WAL_SEGMENT_SIZE <= timeline.backupLsn
}
