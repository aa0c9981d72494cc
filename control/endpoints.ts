/**
 * Endpoints: addresses at which a compute serves a branch. The control plane decides who may start
 * and what with; the process itself is started by whoever asked (the CLI), and reports back.
 *
 * One writer per branch is kept here for people's sake; for the data's sake the safekeepers'
 * election keeps it, so a stale record can cost a restart and never a row.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type {
  EndpointInfo,
  EndpointMode,
  EndpointReport,
  Settings,
} from '#libs/api/endpoint-info.ts'
import type { IssuedToken } from '#libs/auth/renewing-token.ts'
import { assert, ZenithError } from '#libs/errors.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'
import { isActive, modeOf, reported, startIsOverdue, started, vanished } from './endpoint-state.ts'
import { portIsFree } from './free-port.ts'
import { checkKept } from './history.ts'
import { keepForStart } from './history-keeper.ts'
import { checkName } from './names.ts'
import { candidatePorts } from './placement.ts'
import { servingPlacesIn } from './places.ts'
import {
  type BranchRecord,
  type EndpointRecord,
  recordKey,
  type TimelineRecord,
} from './records.ts'
import { addressOf, type Registry } from './registry.ts'
import { computeApi } from './remote.ts'
import { checkSettings } from './setting-check.ts'
import { TimeSearch } from './time-search.ts'
import { checkActive } from './timeline-state.ts'
import type { TipFinder } from './tip.ts'
import type { Tokens } from './tokens.ts'

const HOST = '127.0.0.1'
/** A clean stop streams and commits the shutdown checkpoint; safekeepers may be slow. */
const STOP_TIMEOUT_MS = 60_000
const STOP_POLL_MS = 20
/** The kernel ends the Postgres of a killed compute at once, but on a busy machine not in no time. */
const CRASHED_PORT_MS = 3_000
const STOP_CHECK_MS = 500

export interface EndpointRequest {
  branch: string
  name?: string | undefined
  mode?: EndpointMode | undefined
  lsn?: string | undefined
  at?: string | undefined
  port?: number | undefined
  settings?: Settings | undefined
}

/** A record as it is now: with what only the compute itself knows. */
interface CheckedRecord extends EndpointRecord {
  lagBytes?: number | null
}

export class Endpoints {
  readonly #registry: Registry
  readonly #tips: TipFinder
  readonly #times: TimeSearch
  readonly #tokens: Tokens
  readonly #log: Logger
  readonly #controlPlaneUrl: () => string
  readonly #firstPort: number
  /** The last start of each timeline, so that two starts on one branch come one after the other. */
  readonly #starts = new Map<string, Promise<unknown>>()

  constructor(options: {
    registry: Registry
    tips: TipFinder
    tokens: Tokens
    log: Logger
    controlPlaneUrl: () => string
    firstPort: number
  }) {
    this.#registry = options.registry
    this.#tips = options.tips
    this.#tokens = options.tokens
    this.#times = new TimeSearch(options)
    this.#log = options.log
    this.#controlPlaneUrl = options.controlPlaneUrl
    this.#firstPort = options.firstPort
  }

  async list(tenantId: string): Promise<EndpointInfo[]> {
    await this.#registry.tenant(tenantId)
    const records = await this.#registry.endpoints(tenantId)
    return Promise.all(records.map(async (record) => infoOf(await this.#checked(record))))
  }

  /** The records of a tenant, each checked with its compute. */
  async records(tenantId: string): Promise<EndpointRecord[]> {
    const records = await this.#registry.endpoints(tenantId)
    return Promise.all(records.map((record) => this.#checked(record)))
  }

  async get(tenantId: string, name: string): Promise<EndpointInfo> {
    return infoOf(await this.#checked(await this.#registry.endpoint(tenantId, name)))
  }

  /**
   * Throws `already_exists` for a name in use, `conflict` for a port that is taken, `out_of_range`
   * for an LSN that the branch does not have.
   */
  async create(tenantId: string, request: EndpointRequest): Promise<EndpointInfo> {
    const branch = await this.#registry.branch(tenantId, request.branch)
    const name = request.name ?? branch.name
    checkName('endpoint', name)
    if (request.port !== undefined) await this.#checkPort(request.port, null)
    if (request.settings !== undefined) await checkSettings(request.settings)
    const bound = request.lsn !== undefined || request.at !== undefined
    const mode = request.mode ?? (bound ? 'static' : 'primary')
    const readLsn = await this.#readLsn(tenantId, branch.timelineId, mode, request)
    const record: EndpointRecord = {
      name,
      tenantId,
      timelineId: branch.timelineId,
      branch: branch.name,
      mode,
      ...(readLsn === null ? {} : { readLsn }),
      status: 'stopped',
      host: HOST,
      port: request.port ?? null,
      requestedPort: request.port ?? null,
      httpPort: null,
      pid: null,
      lsn: null,
      attempt: 0,
      error: null,
      createdAt: new Date().toISOString(),
      startedAt: null,
      settings: request.settings ?? {},
      systemSettings: {},
    }
    const stored = await this.#registry.swap([
      { key: recordKey.endpoint(tenantId, name), expectedVersion: 0, value: record },
    ])
    if (stored) return infoOf(record)
    throw new ZenithError('already_exists', `There is an endpoint named "${name}" already.`, {
      hint: `Choose another name, or remove it: zenith pg destroy ${name}.`,
    })
  }

  /** What a static endpoint will show; null for the others, which take no LSN. */
  async #readLsn(
    tenantId: string,
    timelineId: string,
    mode: EndpointMode,
    { lsn: asked, at }: EndpointRequest,
  ): Promise<string | null> {
    if (mode !== 'static') {
      if (asked === undefined && at === undefined) return null
      throw new ZenithError('invalid_argument', `A ${mode} endpoint is not bound to an LSN.`, {
        hint: 'Leave the LSN out, or make the endpoint static.',
      })
    }
    const timeline = await this.#registry.timeline(tenantId, timelineId)
    checkActive(timeline)
    if (at !== undefined) {
      if (asked === undefined) return formatLsn(await this.#times.find(timeline, at))
      throw new ZenithError('invalid_argument', 'Both an LSN and a moment are given.', {
        hint: 'Give one of them.',
      })
    }
    const lsn =
      asked === undefined
        ? await this.#tips.find(timeline)
        : await this.#tips.place(timeline, parseLsn(asked))
    await checkKept(this.#registry, timeline, lsn)
    return formatLsn(lsn)
  }

  /** Marks it starting and says what to start. Throws `conflict` when the branch has a writer. */
  async start(
    tenantId: string,
    name: string,
    request: { port?: number | undefined } = {},
  ): Promise<ComputeSpec> {
    const { timelineId } = await this.#registry.endpoint(tenantId, name)
    const before = this.#starts.get(timelineId) ?? Promise.resolve()
    const start = before
      .catch(() => undefined)
      .then(() => this.#start(tenantId, name, request.port))
    this.#starts.set(timelineId, start)
    try {
      return await start
    } finally {
      if (this.#starts.get(timelineId) === start) this.#starts.delete(timelineId)
    }
  }

  async #start(tenantId: string, name: string, port: number | undefined): Promise<ComputeSpec> {
    const record = await this.#checked(await this.#registry.endpoint(tenantId, name))
    if (isActive(record.status)) {
      const address = record.port === null ? '' : ` at ${record.host}:${record.port}`
      throw new ZenithError(
        'conflict',
        `Endpoint "${name}" is ${record.status} already${address}.`,
        {
          hint: `Stop it first: zenith pg stop ${name}.`,
        },
      )
    }
    if (modeOf(record) === 'primary') await this.#checkOnlyWriter(record)
    const timeline = await this.#registry.timeline(tenantId, record.timelineId)
    checkActive(timeline)
    await keepForStart(this.#registry, record)
    checkNotFollowed(timeline, modeOf(record))
    const newSafekeepers = await this.#registry.newMembers(timeline)
    const chosen = await this.#choosePort(record, port)
    const now = new Date()
    const key = recordKey.endpoint(tenantId, name)
    const next = await this.#registry.change<EndpointRecord>(key, (current) => ({
      ...started(current, chosen, now),
      requestedPort: port ?? current.requestedPort,
    }))
    await this.#checkStillActive(next)
    this.#log.info({ endpoint: name, port: chosen, attempt: next.attempt }, 'endpoint starting')
    return {
      tenantId,
      timelineId: timeline.timelineId,
      branch: record.branch,
      endpoint: name,
      mode: modeOf(next),
      ...(next.readLsn === undefined ? {} : { readLsn: next.readLsn }),
      attempt: next.attempt,
      host: HOST,
      port: chosen,
      controlPlaneUrl: this.#controlPlaneUrl(),
      ...(await this.#whereIs(tenantId)),
      sizeLimitBytes: (await this.#registry.tenant(tenantId)).maxBytes ?? null,
      safekeepers: await this.#registry.members(timeline),
      ...(newSafekeepers === null ? {} : { newSafekeepers }),
      membershipGeneration: timeline.membershipGeneration,
      safekeeperAccess: await this.#tokens.forCompute(name, modeOf(next), targetOf(next)),
      ...versionOf(timeline),
      settings: next.settings ?? {},
      systemSettings: next.systemSettings ?? {},
      ...(await this.#dropSubscriptions(next)),
    }
  }

  async #whereIs(tenantId: string): Promise<Pick<ComputeSpec, 'pageserver' | 'shards'>> {
    const places = await servingPlacesIn(this.#registry, await this.#registry.tenant(tenantId))
    const pageservers = places.map(addressOf)
    const [first] = places
    assert(first !== undefined, 'a tenant has a placement')
    if (first.shardCount === 0) return { pageserver: addressOf(first) }
    return {
      pageserver: addressOf(first),
      shards: { stripeBlocks: first.stripeBlocks, pageservers },
    }
  }

  /**
   * Whoever archives, deletes or replaces the branch looks for computes after storing that; so this
   * start looks for that after storing itself, and takes itself back.
   */
  async #checkStillActive(record: EndpointRecord): Promise<void> {
    const { tenantId, timelineId, name, attempt, branch } = record
    const key = recordKey.timeline(tenantId, timelineId)
    const timeline = (await this.#registry.read<TimelineRecord>(key))?.value
    const current = await this.#registry.endpoint(tenantId, name)
    if (timeline?.state === 'active' && current.timelineId === timelineId) return
    await this.#registry.update<EndpointRecord>(recordKey.endpoint(tenantId, name), (endpoint) =>
      endpoint === null || endpoint.attempt !== attempt || !isActive(endpoint.status)
        ? endpoint
        : { ...endpoint, status: 'stopped' },
    )
    throw new ZenithError('conflict', `Branch "${branch}" has just been changed.`, {
      hint: `zenith branch shows what there is; then try again: zenith pg start ${name}.`,
    })
  }

  async #dropSubscriptions(record: EndpointRecord): Promise<{ dropSubscriptions?: true }> {
    const branch = await this.#registry.findBranch(record.tenantId, record.branch)
    const wanted = branch?.value.dropSubscriptions === true && modeOf(record) === 'primary'
    return wanted ? { dropSubscriptions: true } : {}
  }

  async #checkOnlyWriter(record: EndpointRecord): Promise<void> {
    for (const other of await this.#registry.endpoints(record.tenantId)) {
      if (other.name === record.name || other.timelineId !== record.timelineId) continue
      if (modeOf(other) !== 'primary') continue
      const checked = await this.#checked(other)
      if (!isActive(checked.status)) continue
      throw new ZenithError(
        'conflict',
        `Branch "${record.branch}" has a writer already: endpoint "${other.name}" is ${checked.status} at ${other.host}:${other.port}.`,
        { hint: `Stop it first (zenith pg stop ${other.name}), or make a branch of your own.` },
      )
    }
  }

  /**
   * Makes a stopped replica the primary of its branch; it becomes one when it is started next. With
   * `undo` a stopped primary becomes a replica again. Nothing else changes: whoever was the primary
   * before can still be started, while no other is. Throws `conflict` while the endpoint or another
   * primary of the branch is active, `unsupported` for a static endpoint.
   */
  async promote(
    tenantId: string,
    name: string,
    request: { undo?: boolean | undefined } = {},
  ): Promise<EndpointInfo> {
    const record = await this.#checked(await this.#registry.endpoint(tenantId, name))
    if (modeOf(record) === 'static') {
      throw new ZenithError('unsupported', `Endpoint "${name}" shows one LSN for ever.`, {
        hint: `To write from there on, make a branch of it: zenith branch <name> ${record.branch}@${record.readLsn}.`,
      })
    }
    if (request.undo !== true) await this.#checkOnlyWriter(record)
    const key = recordKey.endpoint(tenantId, name)
    const next = await this.#registry.change<EndpointRecord>(key, (current) => {
      if (isActive(current.status)) {
        throw new ZenithError('conflict', `Endpoint "${name}" is ${current.status}.`, {
          hint: `Stop it first: zenith pg stop ${name}.`,
        })
      }
      return { ...current, mode: request.undo === true ? 'replica' : 'primary' }
    })
    this.#log.info({ endpoint: name, mode: next.mode }, 'endpoint changed its mode')
    return infoOf(next)
  }

  /** For a compute that runs on: a token like its own. Throws `fenced` when it is not the current one. */
  async renewToken(
    tenantId: string,
    name: string,
    { attempt, token }: { attempt: number; token: string },
  ): Promise<IssuedToken> {
    const record = await this.#registry.endpoint(tenantId, name)
    if (record.attempt !== attempt || !isActive(record.status)) {
      throw new ZenithError('fenced', `Endpoint "${name}" has stopped, or been started anew.`)
    }
    return this.#tokens.renew(name, targetOf(record), token)
  }

  /** A report of a compute about itself. */
  async report(tenantId: string, name: string, report: EndpointReport): Promise<EndpointInfo> {
    await this.#registry.endpoint(tenantId, name)
    const key = recordKey.endpoint(tenantId, name)
    const next = await this.#registry.change<EndpointRecord>(key, (current) =>
      reported(current, report),
    )
    if (report.subscriptionsDropped === true && report.attempt === next.attempt) {
      const branchKey = recordKey.branch(tenantId, next.branch)
      await this.#registry.change<BranchRecord>(branchKey, (branch) => {
        const { dropSubscriptions: _, ...rest } = branch
        return rest
      })
    }
    return infoOf(next)
  }

  /** Stops the compute and waits until it has ended. */
  async stop(tenantId: string, name: string): Promise<EndpointInfo> {
    const key = recordKey.endpoint(tenantId, name)
    const found = await this.#checked(await this.#registry.endpoint(tenantId, name))
    await this.#registry.change<EndpointRecord>(key, (current) =>
      isActive(current.status)
        ? { ...current, status: 'stopping' }
        : { ...current, status: 'stopped', error: null },
    )
    const deadline = Date.now() + STOP_TIMEOUT_MS
    let told = false
    for (let checkAt = 0; ; ) {
      let record = await this.#registry.endpoint(tenantId, name)
      if (isActive(record.status) && Date.now() >= checkAt) {
        record = await this.#checked(record)
        checkAt = Date.now() + STOP_CHECK_MS
      }
      if (!isActive(record.status) || record.attempt !== found.attempt) return infoOf(record)
      if (!told && record.httpPort !== null) {
        told = await computeApi.stop(record.host, record.httpPort).then(
          () => true,
          () => false,
        )
      }
      if (Date.now() > deadline) {
        throw new ZenithError('timeout', `Endpoint "${name}" has not stopped within a minute.`, {
          hint: 'A clean stop needs a majority of the safekeepers: see zenith status.',
        })
      }
      await sleep(STOP_POLL_MS)
    }
  }

  async delete(tenantId: string, name: string): Promise<EndpointInfo> {
    const record = await this.#checked(await this.#registry.endpoint(tenantId, name))
    const key = recordKey.endpoint(tenantId, name)
    await this.#registry.update<EndpointRecord>(key, (current) => {
      if (current === null || !isActive(current.status)) return null
      throw new ZenithError('conflict', `Endpoint "${name}" is ${current.status}.`, {
        hint: `Stop it first: zenith pg stop ${name}.`,
      })
    })
    return infoOf(record)
  }

  /**
   * Compares the record with the compute's own word. A process that has gone is stored as such; one
   * that is only slow is left alone. The live LSN is in the answer, not in the store.
   */
  async #checked(record: EndpointRecord): Promise<CheckedRecord> {
    if (!isActive(record.status)) return record
    const key = recordKey.endpoint(record.tenantId, record.name)
    const gone = () =>
      this.#registry.change<EndpointRecord>(key, (current) =>
        current.attempt === record.attempt && isActive(current.status)
          ? vanished(current)
          : current,
      )
    if (record.httpPort === null) return startIsOverdue(record, new Date()) ? gone() : record
    try {
      const status = await computeApi.status(record.host, record.httpPort)
      if (status.timelineId !== record.timelineId || status.attempt !== record.attempt) {
        return await gone()
      }
      return { ...record, lsn: status.commitLsn ?? record.lsn, lagBytes: status.lagBytes }
    } catch (error) {
      const refused = error instanceof ZenithError && error.code === 'unavailable'
      return refused ? gone() : record
    }
  }

  /** Clients know an endpoint by its port: it keeps the one that it had while nobody else has it. */
  async #choosePort(record: EndpointRecord, asked: number | undefined): Promise<number> {
    const reserved = await this.#reservedPorts(record)
    const { port: last, status } = record
    if (status === 'crashed' && last !== null && !reserved.has(last)) await freed(last)
    const wanted = asked ?? record.requestedPort
    if (wanted !== null) {
      await this.#checkPort(wanted, record)
      return wanted
    }
    const candidates = candidatePorts({
      lastPort: record.port,
      firstPort: this.#firstPort,
      reserved,
    })
    for (const port of candidates) {
      if (await portIsFree(HOST, port)) return port
    }
    throw new ZenithError('unavailable', `There is no free port from ${this.#firstPort} upward.`)
  }

  /** Throws `conflict` that says who has the port. */
  async #checkPort(port: number, own: EndpointRecord | null): Promise<void> {
    for (const other of await this.#registry.endpoints()) {
      if (other.name === own?.name && other.tenantId === own.tenantId) continue
      if (other.requestedPort !== port && !(isActive(other.status) && other.port === port)) continue
      throw new ZenithError('conflict', `Port ${port} belongs to endpoint "${other.name}".`, {
        hint: 'Choose another port, or leave it out to get a free one.',
      })
    }
    if (await portIsFree(HOST, port)) return
    throw new ZenithError('conflict', `Port ${port} is taken by another program.`, {
      hint: 'Choose another port, or leave it out to get a free one.',
    })
  }

  async #reservedPorts(own: EndpointRecord): Promise<Set<number>> {
    const others = (await this.#registry.endpoints()).filter(
      ({ name, tenantId }) => name !== own.name || tenantId !== own.tenantId,
    )
    return new Set(
      others.flatMap((other) =>
        isActive(other.status) || other.requestedPort !== null ? [other.port ?? 0] : [],
      ),
    )
  }
}

/** Waits for what a killed compute left on its port to end, and for a stranger not much longer. */
async function freed(port: number): Promise<void> {
  const deadline = Date.now() + CRASHED_PORT_MS
  while (!(await portIsFree(HOST, port)) && Date.now() < deadline) await sleep(STOP_POLL_MS)
}

function targetOf(record: EndpointRecord): SessionTarget {
  return {
    tenantId: parseTenantId(record.tenantId),
    timelineId: parseTimelineId(record.timelineId),
  }
}

function versionOf(timeline: TimelineRecord): { pgVersion: number; systemId: string } {
  const { pgVersion, systemId } = timeline
  if (pgVersion !== null && systemId !== null) return { pgVersion, systemId }
  throw new ZenithError('internal', `timeline ${timeline.timelineId} has no version`)
}

/** What is told of an endpoint. */
export function infoOf(record: CheckedRecord): EndpointInfo {
  const { tenantId: _, readLsn = null, lagBytes = null, ...rest } = record
  const { settings = {}, systemSettings = {}, ...info } = rest
  return { ...info, mode: modeOf(record), readLsn, lagBytes, settings, systemSettings }
}

/** What a branch that follows a stock server shows may be read at an LSN; its WAL is nobody's to serve. */
function checkNotFollowed({ follows, branch }: TimelineRecord, mode: EndpointMode): void {
  if (follows === undefined || mode === 'static') return
  const { host, pgPort } = follows.server
  throw new ZenithError(
    'precondition_failed',
    `Branch "${branch}" follows Postgres at ${host}:${pgPort}, so nobody else can write to it.`,
    {
      hint: `Make a branch of it: zenith branch <name> ${branch}. To read it as it is now: zenith pg start <name> --branch ${branch} --lsn end.`,
    },
  )
}
