/**
 * The Postgres-protocol side of a safekeeper: understands the replication commands that stock clients
 * send (streamutil.c, libpqwalreceiver.c), and START_WAL_PUSH of our proposer.
 */
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import type { Logger } from '#libs/log.ts'
import { type PgWireServer, servePgWire } from '#libs/pgwire/server.ts'
import { sessionTarget } from '#libs/pgwire/session-target.ts'
import type { PgSession } from '#libs/pgwire/session.ts'
import { WAL_PUSH_VERSION } from '#libs/protocol/wal-push.ts'
import type { Access } from './access.ts'
import type { SafekeeperMetrics } from './metrics.ts'
import { checkWalAction, type WalAction } from './permissions.ts'
import type { Timeline } from './timeline.ts'
import type { Timelines } from './timelines.ts'
import { runWalPush } from './wal-push-session.ts'
import { type StreamRequest, WalStreamSession } from './wal-stream-session.ts'

const TEXT_OID = 25
const MAX_COMMAND_CHARS = 1000
const INT8_OID = 20
const START_REPLICATION =
  /^START_REPLICATION\s+(?:SLOT\s+(?:"[^"]*"|\w+)\s+)?(?:PHYSICAL\s+)?([0-9A-F]+\/[0-9A-F]+)(?:\s+TIMELINE\s+(\d+))?(?:\s*\(\s*term\s*=?\s*'(\d+)'\s*\))?\s*;?$/i
const START_PUSH = /^START_WAL_PUSH\s*\(\s*proto_version\s*=?\s*'(\d+)'\s*\)\s*;?$/i
const SHOW = /^SHOW\s+(\w+)\s*;?$/i

export interface WalServiceOptions {
  host: string
  port: number
  log: Logger
  timelines: Timelines
  metrics: SafekeeperMetrics
  access: Access
}

export function serveWal(options: WalServiceOptions): Promise<PgWireServer> {
  const { tls, verifier } = options.access
  return servePgWire({
    host: options.host,
    port: options.port,
    log: options.log,
    tls: tls === null ? undefined : () => tls.context,
    authenticate: verifier === null ? undefined : (token) => verifier.verify(token),
    onSession: (session) => runSession(session, options),
  })
}

async function runSession(session: PgSession, options: WalServiceOptions): Promise<void> {
  const target = sessionTarget(session.startup)
  if (target === null) {
    throw new ZenithError('invalid_argument', 'the connection names no tenant and timeline', {
      hint: "Set options='-c tenant_id=<32 hex> -c timeline_id=<32 hex>' in the connection string.",
    })
  }
  // Before anything is told of the timeline, even whether it is there.
  checkWalAction(session.claims, 'read', target)
  const timeline = options.timelines.get(target.tenantId, target.timelineId)
  for (let query = await session.nextQuery(); query !== null; query = await session.nextQuery()) {
    // Longer ones are no commands of ours, and patterns take their time with them.
    if (query.length > MAX_COMMAND_CHARS) {
      throw new ZenithError('invalid_argument', `a command of ${query.length} characters`)
    }
    const text = query.trim()
    if (START_PUSH.test(text)) {
      checkWalAction(session.claims, 'push', target)
      await startPush(session, timeline, text, options)
      return
    }
    try {
      checkWalAction(session.claims, actionOf(text), target)
      await runCommand(session, timeline, text, options)
    } catch (error) {
      if (!(error instanceof ZenithError)) throw error
      session.sendError(error)
    }
    session.sendReadyForQuery()
    // A client that asks on and on without reading must not fill our memory with answers.
    await session.drained()
  }
}

function actionOf(text: string): WalAction {
  return START_REPLICATION.exec(text)?.[3] === undefined ? 'read' : 'readUncommitted'
}

async function startPush(
  session: PgSession,
  timeline: Timeline,
  text: string,
  options: WalServiceOptions,
): Promise<void> {
  const version = Number(START_PUSH.exec(text)?.[1])
  if (version !== WAL_PUSH_VERSION) {
    throw new ZenithError('unsupported', `WAL push version ${version} is not served here`, {
      hint: `This safekeeper speaks version ${WAL_PUSH_VERSION}.`,
    })
  }
  await runWalPush(session, timeline, options)
}

async function runCommand(
  session: PgSession,
  timeline: Timeline,
  text: string,
  options: WalServiceOptions,
): Promise<void> {
  const start = START_REPLICATION.exec(text)
  const shown = SHOW.exec(text)
  if (start) {
    await new WalStreamSession(session, timeline, streamRequest(start), options.metrics).run()
  } else if (/^IDENTIFY_SYSTEM\s*;?$/i.test(text)) {
    identifySystem(session, timeline)
  } else if (shown) {
    show(session, (shown[1] as string).toLowerCase())
  } else if (/^READ_REPLICATION_SLOT\b/i.test(text)) {
    // Slots are not kept here; an absent one is a row of nulls.
    session.sendRowDescription([
      { name: 'slot_type' },
      { name: 'restart_lsn' },
      { name: 'restart_tli' },
    ])
    session.sendDataRow([null, null, null])
    session.sendCommandComplete('READ_REPLICATION_SLOT')
  } else {
    throw new ZenithError('unsupported', `the command "${text.slice(0, 80)}" is not served here`, {
      hint: 'Safekeepers serve IDENTIFY_SYSTEM, START_REPLICATION PHYSICAL and SHOW.',
    })
  }
}

function streamRequest(match: RegExpExecArray): StreamRequest {
  const walTimeline = match[2] === undefined ? 1 : Number(match[2])
  if (walTimeline !== 1) {
    throw new ZenithError(
      'out_of_range',
      `there is no Postgres timeline ${walTimeline} here, only 1`,
    )
  }
  return {
    startLsn: parseLsn(match[1] as string),
    term: match[3] === undefined ? null : Number(match[3]),
  }
}

function identifySystem(session: PgSession, timeline: Timeline): void {
  session.sendRowDescription([
    { name: 'systemid', oid: TEXT_OID },
    { name: 'timeline', oid: INT8_OID },
    { name: 'xlogpos', oid: TEXT_OID },
    { name: 'dbname', oid: TEXT_OID },
  ])
  session.sendDataRow([String(timeline.control.systemId), '1', formatLsn(timeline.commitLsn), null])
  session.sendCommandComplete('IDENTIFY_SYSTEM')
}

const SETTINGS: Record<string, string> = {
  wal_segment_size: '16MB',
  data_directory_mode: '0700',
  server_version_num: '170011',
}

function show(session: PgSession, name: string): void {
  const value = SETTINGS[name]
  if (value === undefined) {
    throw new ZenithError('not_found', `there is no setting "${name}" here`)
  }
  session.sendRowDescription([{ name }])
  session.sendDataRow([value])
  session.sendCommandComplete('SHOW')
}
