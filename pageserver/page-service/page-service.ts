/** The page service port: page streams and base backups, in Postgres sessions. */
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { type PgWireServer, servePgWire } from '#libs/pgwire/server.ts'
import type { PgSession } from '#libs/pgwire/session.ts'
import { backupEntries } from '../basebackup/base-backup.ts'
import { isRecordBoundary } from '../basebackup/shutdown-checkpoint.ts'
import { writeTar } from '../basebackup/tar-writer.ts'
import { exportEntries } from '../export/export-entries.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { type PageCommand, parsePageCommand } from './command.ts'
import type { PageServiceMetrics } from './metrics.ts'
import { PageStream } from './page-stream.ts'
import { WAIT_FOR_WAL_MS } from './reader.ts'
import { checkHasAllBlocks, checkIsFirstShard } from './shard-check.ts'

/** Requests are tiny; anything larger is not a page stream client. */
const MAX_MESSAGE_BYTES = 64 * 1024

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
  checkIsFirstShard(timeline, command.kind)
  if (command.kind !== 'basebackup') checkHasAllBlocks(timeline, command.kind)
  const startedAt = performance.now()
  const lsn = await backupLsn(timeline, command.lsn)
  const release = timeline.retention.hold(lsn)
  session.startCopyOut()
  const kind = kindOf(command)
  const entries =
    command.kind === 'export'
      ? exportEntries(timeline, lsn, { checksums: command.checksums, log })
      : backupEntries(timeline, lsn, { kind, sparse: command.sparse, log })
  const sizeBytes = await writeTar(entries, (parts) => sendParts(session, parts)).finally(release)
  session.sendCopyDone()
  session.sendCommandComplete(command.kind.toUpperCase())
  const elapsedMs = performance.now() - startedAt
  options.metrics.observeBackup(command.kind, elapsedMs)
  log.info(
    { command: command.kind, kind, lsn: formatLsn(lsn), sizeBytes, elapsedMs },
    'sent base backup',
  )
}

function kindOf(command: Exclude<PageCommand, { kind: 'pagestream' }>) {
  return command.kind === 'basebackup' ? command.compute : 'full'
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
