/** Finds the LSN of a branch at a moment: the place before its first commit after that moment. */
import type { NodeInfo } from '#libs/api/node-info.ts'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn, parseLsn, readLsnLE } from '#libs/lsn.ts'
import { formatTimestamp, parseTimestamp, timestampNow } from '#libs/pg/timestamp.ts'
import { connectSafekeeper } from '#libs/pgwire/safekeeper-connection.ts'
import { decodeWalStreamMessage } from '#libs/protocol/wal-stream.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { RMGR, XACT_INFO, XACT_OPCODE_MASK } from '#libs/wal/format.ts'
import { RecordFramer } from '#libs/wal/record-framer.ts'
import type { TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { firstPlaceOf } from './places.ts'
import { pageserverApi } from './remote.ts'
import type { TipFinder } from './tip.ts'

/** What a moment means on a branch. */
export type FoundTime =
  /** What is kept begins after it, at `oldestLsn`; `isCutOff`: there was more once. */
  | { kind: 'before'; oldestLsn: Lsn; oldestTimeUs: number; isCutOff: boolean }
  /** The state with every commit up to the first one that is later. */
  | { kind: 'at'; lsn: Lsn }
  /** No commit is later; `lsn` is the end. */
  | { kind: 'after'; lsn: Lsn }

export class TimeSearch {
  readonly #registry: Registry
  readonly #tips: TipFinder
  readonly #log: Logger

  constructor(options: { registry: Registry; tips: TipFinder; log: Logger }) {
    this.#registry = options.registry
    this.#tips = options.tips
    this.#log = options.log
  }

  /**
   * The state at this LSN has every commit up to the first one that is later than the moment, like
   * Postgres' recovery_target_time. Commit times are those of the primary's clock, and commits that
   * overlap need not be in the order of their times. Throws `out_of_range` for a moment that is
   * still to come, or before what is kept of the branch.
   */
  async find(timeline: TimelineRecord, text: string): Promise<Lsn> {
    const timeUs = parseTimestamp(text)
    if (timeUs > timestampNow()) {
      throw new ZenithError('out_of_range', `${text} is still to come.`, {
        hint: 'Name a moment in the past. Without a time zone it is taken as UTC.',
      })
    }
    const found = await this.search(timeline, timeUs)
    if (found.kind !== 'before') return found.lsn
    const oldest = `${formatLsn(found.oldestLsn)} of ${formatTimestamp(found.oldestTimeUs)}`
    if (found.isCutOff) {
      throw new ZenithError(
        'out_of_range',
        `The history of branch "${timeline.branch}" at ${text} is gone: it is kept from ${oldest} on.`,
        {
          hint: 'zenith tenant show tells how much is kept; zenith tenant set --history changes it.',
        },
      )
    }
    throw new ZenithError(
      'out_of_range',
      `Branch "${timeline.branch}" began after ${text}, at ${oldest}.`,
      timeline.ancestorTimelineId === null ? {} : { hint: 'For an earlier state take its parent.' },
    )
  }

  /** Where in the branch's history a moment is. `timeUs` counts from 2000. */
  async search(timeline: TimelineRecord, timeUs: number): Promise<FoundTime> {
    // Commits from before that moment may still be on their way to the pageserver.
    const tipLsn = await this.#tips.find(timeline)
    const pageserver = await firstPlaceOf(this.#registry, timeline.tenantId)
    const params = { tenantId: timeline.tenantId, timelineId: timeline.timelineId }
    await pageserverApi.waitLsn(pageserver, params, formatLsn(tipLsn))
    const window = await pageserverApi.commitWindow(pageserver, params, timeUs)
    switch (window.kind) {
      case 'before':
        return { ...window, oldestLsn: parseLsn(window.oldestLsn) }
      case 'after':
        return { kind: 'after', lsn: tipLsn }
      case 'within': {
        const place = { fromLsn: parseLsn(window.fromLsn), toLsn: parseLsn(window.toLsn) }
        return { kind: 'at', lsn: await this.#scan(timeline, timeUs, place) }
      }
    }
  }

  /** Looks at the WAL itself, at whichever safekeeper answers. */
  async #scan(
    timeline: TimelineRecord,
    timeUs: number,
    window: { fromLsn: Lsn; toLsn: Lsn },
  ): Promise<Lsn> {
    for (const node of await this.#registry.members(timeline)) {
      try {
        return await firstLaterCommit(node, timeline, timeUs, window)
      } catch (error) {
        this.#log.warn({ safekeeper: node.id, reason: errorMessage(error) }, 'no WAL to look at')
      }
    }
    throw new ZenithError('unavailable', 'No safekeeper could show the WAL of that time.', {
      hint: 'zenith status shows which service is down.',
    })
  }
}

async function firstLaterCommit(
  node: NodeInfo,
  timeline: TimelineRecord,
  timeUs: number,
  { fromLsn, toLsn }: { fromLsn: Lsn; toLsn: Lsn },
): Promise<Lsn> {
  const client = await connectSafekeeper({
    host: node.host,
    pgPort: node.pgPort,
    applicationName: 'control',
    target: {
      tenantId: parseTenantId(timeline.tenantId),
      timelineId: parseTimelineId(timeline.timelineId),
    },
  })
  try {
    const framer = new RecordFramer(fromLsn)
    const command = `START_REPLICATION PHYSICAL ${formatLsn(fromLsn)} TIMELINE 1`
    for await (const payload of client.copyOut(command)) {
      const message = decodeWalStreamMessage(payload)
      if (message.kind !== 'wal-data') continue
      framer.feed(message.wal)
      const found = laterCommitIn(framer, timeUs)
      if (found !== null) return found
      assert(framer.nextLsn < toLsn, `no commit after that time up to ${formatLsn(toLsn)}`)
    }
    throw new ZenithError('unavailable', 'the safekeeper ended its stream')
  } finally {
    client.destroy()
  }
}

/** Start of the first commit record among those just framed that is later. */
function laterCommitIn(framer: RecordFramer, timeUs: number): Lsn | null {
  const record = new DecodedRecord()
  for (let index = 0; index < framer.count; index++) {
    if (framer.rmid[index] !== RMGR.TRANSACTION) continue
    framer.decode(index, record)
    const opcode = record.info & XACT_OPCODE_MASK
    if (opcode !== XACT_INFO.COMMIT && opcode !== XACT_INFO.COMMIT_PREPARED) continue
    if (readLsnLE(record.buffer, record.mainOffset) > timeUs) return framer.startLsn[index] as Lsn
  }
  return null
}
