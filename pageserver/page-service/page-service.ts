/** The page service port: page streams and base backups, in Postgres sessions. */
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { type PgWireServer, servePgWire } from '#libs/pgwire/server.ts'
import type { PgSession } from '#libs/pgwire/session.ts'
import { type BackupEntry, backupEntries } from '../basebackup/base-backup.ts'
import { isRecordBoundary } from '../basebackup/shutdown-checkpoint.ts'
import { writeTar } from '../basebackup/tar-writer.ts'
import { exportEntries } from '../export/export-entries.ts'
import { ShardPages } from '../export/shard-pages.ts'
import { stripeMessages } from '../export/stripe-stream.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { type PageCommand, parsePageCommand } from './command.ts'
import type { PageServiceMetrics } from './metrics.ts'
import { PageStream } from './page-stream.ts'
import { WAIT_FOR_WAL_MS } from './reader.ts'
import { checkIsFirstShard, checkShardsAreKnown, shardOf } from './shard-check.ts'

/** Requests are tiny; anything larger is not a page stream client. */
const MAX_MESSAGE_BYTES = 64 * 1024
/** The last entry of each archive. */
const CONTROL_FILE = 'global/pg_control'

export interface PageServiceOptions {
  host: string
  port: number
  log: Logger
  metrics: PageServiceMetrics
  /** Throws `not_found` for a tenant or timeline that this pageserver does not hold. */
  findTimeline: (tenantId: TenantId, timelineId: TimelineId) => Timeline
  /** Told when a client begins to use a timeline. */
  onUse?: (tenantId: TenantId, timelineId: TimelineId) => void
}

export function servePages(options: PageServiceOptions): Promise<PgWireServer> {
  return servePgWire({
    host: options.host,
    port: options.port,
    log: options.log,
    maxMessageBytes: MAX_MESSAGE_BYTES,
    onSession: (session) => runSession(session, options),
  })
}

async function runSession(session: PgSession, options: PageServiceOptions): Promise<void> {
  for (;;) {
    const query = await session.nextQuery()
    if (query === null) return
    try {
      await runCommand(session, parsePageCommand(query), options)
    } catch (error) {
      if (session.socket.destroyed) return
      const context = { query: query.slice(0, 200) }
      if (error instanceof ZenithError) options.log.warn(context, errorMessage(error))
      else options.log.error({ ...context, err: error }, 'page service command failed')
      session.sendError(error)
    }
    session.sendReadyForQuery()
  }
}

async function runCommand(
  session: PgSession,
  command: PageCommand,
  options: PageServiceOptions,
): Promise<void> {
  const { tenantId, timelineId } = command
  const timeline = options.findTimeline(tenantId, timelineId)
  options.onUse?.(tenantId, timelineId)
  const log = options.log.child({ tenantId, timelineId })
  if (command.kind === 'pagestream') {
    const current = () => options.findTimeline(tenantId, timelineId)
    await new PageStream({ session, timeline: current, log, metrics: options.metrics }).run()
    session.sendCopyDone()
    session.sendCommandComplete('PAGESTREAM')
    return
  }
  const startedAt = performance.now()
  const sizeBytes =
    command.kind === 'stripes'
      ? await sendStripes(session, timeline, command.lsn)
      : await sendBackup(session, timeline, command, log)
  session.sendCopyDone()
  session.sendCommandComplete(command.kind.toUpperCase())
  const elapsedMs = performance.now() - startedAt
  options.metrics.observeBackup(command.kind, elapsedMs)
  log.info({ command: command.kind, sizeBytes, elapsedMs }, 'sent base backup')
}

type BackupCommand = Exclude<PageCommand, { kind: 'pagestream' | 'stripes' }>

/** Sends the archive; returns its size. */
async function sendBackup(
  session: PgSession,
  timeline: Timeline,
  command: BackupCommand,
  log: Logger,
): Promise<number> {
  checkIsFirstShard(timeline, command.kind)
  const shards = command.kind === 'basebackup' ? null : command.shards
  if (command.kind !== 'basebackup') checkShardsAreKnown(timeline, command.kind, shards !== null)
  const lsn = await backupLsn(timeline, command.lsn)
  const release = timeline.retention.hold(lsn)
  let pages: ShardPages | null = null
  try {
    pages = shards && (await ShardPages.open(timeline, lsn, shards))
    session.startCopyOut()
    const entries =
      command.kind === 'export'
        ? exportEntries(timeline, lsn, { checksums: command.checksums, pages, log })
        : backupEntries(timeline, lsn, {
            kind: command.kind === 'basebackup' ? command.compute : 'full',
            sparse: command.sparse,
            pages,
            log,
          })
    const send = (parts: Buffer[]) => sendParts(session, parts)
    return await writeTar(pages === null ? entries : checked(entries, pages), send)
  } finally {
    pages?.destroy()
    release()
  }
}

/** Before pg_control, without which nothing starts, all that the shards have must have been used. */
async function* checked(
  entries: AsyncGenerator<BackupEntry>,
  pages: ShardPages,
): AsyncGenerator<BackupEntry> {
  for await (const entry of entries) {
    if (entry.name === CONTROL_FILE) await pages.checkAllTaken()
    yield entry
  }
}

/** Sends a shard's own blocks at the LSN, which it holds until then; returns how many bytes. */
async function sendStripes(session: PgSession, timeline: Timeline, wanted: Lsn): Promise<number> {
  const identity = shardOf(timeline)
  const lsn = await backupLsn(timeline, wanted)
  const release = timeline.retention.hold(lsn)
  let sizeBytes = 0
  try {
    session.startCopyOut()
    for await (const parts of stripeMessages(timeline, identity, lsn)) {
      for (const part of parts) sizeBytes += part.length
      await sendParts(session, parts)
    }
    return sizeBytes
  } finally {
    release()
  }
}

async function sendParts(session: PgSession, parts: Buffer[]): Promise<void> {
  if (session.socket.destroyed) {
    throw new ZenithError('unavailable', 'the client left before the backup was complete')
  }
  if (!session.sendCopyData(...parts)) await session.drained()
}

/** The LSN to back up at: the one asked for, once it is there, or the newest. */
async function backupLsn(timeline: Timeline, wanted: Lsn | null): Promise<Lsn> {
  if (wanted === null) return timeline.lastRecordLsn
  if (wanted < timeline.startLsn) {
    throw new ZenithError(
      'out_of_range',
      `timeline ${timeline.timelineId} starts at ${formatLsn(timeline.startLsn)}, after ${formatLsn(wanted)}`,
    )
  }
  if (!isRecordBoundary(wanted)) {
    throw new ZenithError(
      'invalid_argument',
      `no record ends at ${formatLsn(wanted)}: it is inside a page header or no multiple of 8`,
    )
  }
  await timeline.waitForLsn(wanted, WAIT_FOR_WAL_MS)
  return wanted
}
