/**
 * One timeline on a safekeeper: runs the acceptor's effects on real files and connections, strictly
 * in order (see acceptor.ts for why the order matters), and tells readers when more WAL is there.
 */
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn, segmentNumber, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { Logger } from '#libs/log.ts'
import { lastLogTerm } from '#libs/protocol/term-history.ts'
import { oldestXmins, type StandbyXmins } from '#libs/protocol/standby-xmins.ts'
import type {
  AcceptorMessage,
  MemberConfiguration,
  ProposerMessage,
} from '#libs/protocol/wal-push.ts'
import { type PageserverFeedback, postgresTimeUs } from '#libs/protocol/wal-stream.ts'
import {
  Acceptor,
  type AcceptorEffect,
  type AcceptorEvent,
  type PeerPositions,
} from './acceptor.ts'
import { ControlFile } from './store/control-file.ts'
import type { ControlState } from './control-state.ts'
import { fatalDiskError, syncDirectory } from './store/files.ts'
import type { SafekeeperMetrics } from './metrics.ts'
import type { DiskReserve } from './store/disk-reserve.ts'
import { type LocalSegment, localSegments, removalBound } from './store/local-segments.ts'
import { SegmentDisk } from './store/segment-disk.ts'
import { segmentName } from './store/segment-plan.ts'
import type { SpareSegments } from './store/spare-segments.ts'
import { leadBytes } from './store/wal-lead.ts'
import { type RecoveredWal, recoverWal } from './store/wal-recovery.ts'
import { WalStore } from './store/wal-store.ts'
import type { WriteSlots } from './store/write-slots.ts'

/** A proposer's connection, as the timeline uses it. */
export interface ProposerConnection {
  readonly id: number
  send(message: AcceptorMessage): void
  close(reason: string): void
}

export interface TimelineContext {
  nodeId: number
  incarnation: string
  spares: SpareSegments
  reserve: DiskReserve
  slots: WriteSlots
  metrics: SafekeeperMetrics
  log: Logger
}

export class Timeline {
  readonly directory: string
  readonly #acceptor: Acceptor
  readonly #controlFile: ControlFile
  readonly #store: WalStore
  readonly #log: Logger
  readonly #connections = new Map<number, ProposerConnection>()
  readonly #standbys = new Map<object, StandbyXmins>()
  readonly #listeners = new Set<() => void>()
  readonly #durableListeners = new Set<() => void>()
  readonly #context: TimelineContext
  readonly #holds = new Set<{ lsn: Lsn }>()
  #queue: AcceptorEffect[] = []
  /** WAL in writes that wait for an earlier effect. */
  #queuedBytes = 0
  #running = false
  #halted: string | null = null
  #lastSyncUs = 0
  #readers = 0
  #writtenAtLastTick: Lsn = 0
  #closed = false
  #requestCounter = 0
  readonly #requests = new Map<
    number,
    { resolve: () => void; reject: (error: ZenithError) => void }
  >()

  private constructor(
    directory: string,
    controlFile: ControlFile,
    recovered: RecoveredWal,
    context: TimelineContext,
  ) {
    const { flushLsn, segments } = recovered
    const control = controlFile.stored
    this.directory = directory
    this.#context = context
    this.#log = context.log.child({ timeline: control.timelineId })
    this.#controlFile = controlFile
    const { nodeId, incarnation } = context
    this.#acceptor = new Acceptor({ nodeId, incarnation, control, flushLsn })
    this.#store = new WalStore({
      disk: segmentDisk(directory, controlFile, context),
      slots: context.slots,
      startLsn: control.startLsn,
      localStartLsn: control.localStartLsn,
      endLsn: flushLsn,
      segments,
      onDurable: (epoch, writeLsn, syncUs) => {
        this.#lastSyncUs = syncUs
        context.metrics.syncSeconds.observe(syncUs / 1e6)
        if (this.#halted === null) this.dispatch({ kind: 'flushed', epoch, writeLsn })
        for (const listener of this.#durableListeners) listener()
      },
      onFull: (error) =>
        this.#log.error({ err: error }, 'no space for a WAL segment; trying again each second'),
    })
  }

  /** Builds the whole folder under a temporary name, then renames it: it exists whole or not at all. */
  static async create(
    directory: string,
    control: ControlState,
    context: TimelineContext,
  ): Promise<Timeline> {
    const parent = dirname(directory)
    const building = `${parent}/creating-${basename(directory)}`
    await mkdir(parent, { recursive: true })
    await syncDirectory(dirname(parent))
    await rm(building, { recursive: true, force: true })
    await mkdir(building)
    const controlFile = new ControlFile(building, context.reserve)
    await controlFile.write(control)
    await rename(building, directory)
    await syncDirectory(parent)
    controlFile.moved(directory)
    return new Timeline(
      directory,
      controlFile,
      { flushLsn: control.startLsn, segments: null },
      context,
    )
  }

  /** Opens a timeline from disk. Throws `corrupt` when its files cannot be trusted. */
  static async open(
    directory: string,
    context: TimelineContext,
    afterCleanStop: boolean,
  ): Promise<Timeline> {
    const controlFile = new ControlFile(directory, context.reserve)
    const control = await controlFile.read()
    const disk = segmentDisk(directory, controlFile, context)
    const recovered = await recoverWal(disk, control, afterCleanStop)
    context.log.info(
      {
        timeline: control.timelineId,
        term: control.term,
        commitLsn: formatLsn(control.commitLsn),
        flushLsn: formatLsn(recovered.flushLsn),
      },
      'timeline opened',
    )
    return new Timeline(directory, controlFile, recovered, context)
  }

  /** Durable state with the current positions folded in. */
  get control(): ControlState {
    return { ...this.#acceptor.control, localStartLsn: this.#store.localStartLsn }
  }

  /** What the control file on disk says: nothing newer, that a crash would take back. */
  get stored(): ControlState {
    return this.#controlFile.stored
  }

  get flushLsn(): Lsn {
    return this.#acceptor.flushLsn
  }

  get commitLsn(): Lsn {
    return this.#acceptor.commitLsn
  }

  get lastLogTerm(): number {
    return lastLogTerm(this.control.history, this.flushLsn)
  }

  /** A proposer streams; recovery from a peer, whose connections have negative ids, is none. */
  get computeConnected(): boolean {
    return (this.#acceptor.streamingConnection ?? -1) > 0
  }

  get readers(): number {
    return this.#readers
  }

  /** WAL that was received and is not durable yet. */
  get backlogBytes(): number {
    return this.#store.backlogBytes + this.#queuedBytes
  }

  /** Closed for good: the process stops, or the timeline was deleted. */
  get closed(): boolean {
    return this.#closed
  }

  /** Why the timeline refuses to work; null while it works. */
  get halted(): string | null {
    return this.#halted
  }

  attach(connection: ProposerConnection): void {
    this.#refuseWhenHalted()
    this.#connections.set(connection.id, connection)
  }

  detach(connection: ProposerConnection): void {
    if (!this.#connections.delete(connection.id) || this.#halted !== null) return
    this.dispatch({ kind: 'disconnected', connection: connection.id })
  }

  receive(connection: number, message: ProposerMessage): void {
    this.dispatch({ kind: 'message', connection, message })
  }

  /**
   * Switches to the members of a higher generation; resolves when that, and all WAL received until
   * then, is durable. The generation in force is a no-op. Throws `precondition_failed` for a lower
   * one and for one that this safekeeper cannot follow.
   */
  configure(configuration: MemberConfiguration): Promise<void> {
    return this.#ask((request) => ({ kind: 'configure', request, configuration }))
  }

  /** Follows no leader below `term` from now on, durably. A term already reached is a no-op. */
  bumpTerm(term: number): Promise<void> {
    return this.#ask((request) => ({ kind: 'bump-term', request, term }))
  }

  /** Takes what an authenticated peer says of itself. */
  peerPositions(peer: PeerPositions): void {
    this.dispatch({ kind: 'peer', peer })
  }

  /** Everything below `lsn` is in object storage, verified there. */
  backedUp(lsn: Lsn): void {
    this.dispatch({ kind: 'backed-up', lsn })
  }

  #ask(event: (request: number) => AcceptorEvent): Promise<void> {
    this.#refuseWhenHalted()
    return new Promise((resolve, reject) => {
      if (this.#closed) throw new ZenithError('unavailable', 'this timeline is closed')
      const request = ++this.#requestCounter
      this.#requests.set(request, { resolve, reject })
      this.dispatch(event(request))
    })
  }

  #answer(request: number, refusal: string | null): void {
    const waiting = this.#requests.get(request)
    this.#requests.delete(request)
    if (refusal === null) waiting?.resolve()
    else waiting?.reject(new ZenithError('precondition_failed', refusal))
  }

  #failRequests(reason: string): void {
    for (const { reject } of this.#requests.values()) {
      reject(new ZenithError('unavailable', `this timeline stopped: ${reason}`))
    }
    this.#requests.clear()
  }

  pageserverFeedback(feedback: PageserverFeedback): void {
    this.dispatch({ kind: 'pageserver-feedback', feedback })
  }

  /** What the queries of one standby need; null when it leaves. */
  standbyXmins(standby: object, xmins: StandbyXmins | null): void {
    if (xmins === null && !this.#standbys.has(standby)) return
    if (xmins === null) this.#standbys.delete(standby)
    else this.#standbys.set(standby, xmins)
    const timestampUs = BigInt(postgresTimeUs(Date.now()))
    const hotStandby = { timestampUs, ...oldestXmins(this.#standbys.values()) }
    this.dispatch({ kind: 'hot-standby-feedback', hotStandby })
  }

  /** Calls `listener` whenever more WAL is committed or durable, until the returned function runs. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener)
    this.#readers += 1
    return () => {
      if (this.#listeners.delete(listener)) this.#readers -= 1
    }
  }

  /** Calls `listener` after each write to disk, until the returned function runs. */
  onDurable(listener: () => void): () => void {
    this.#durableListeners.add(listener)
    return () => this.#durableListeners.delete(listener)
  }

  /** WAL at `lsn` from memory, in one piece up to `endLsn`; null when it is on disk only. */
  recentWal(lsn: Lsn, endLsn: Lsn): Buffer | null {
    const { startLsn, systemId } = this.control
    if (lsn < startLsn) return leadBytes({ startLsn, systemId }, lsn, Math.min(endLsn, startLsn))
    return this.#store.tail.view(lsn, endLsn)
  }

  /** Opens the segment that holds `lsn`, whichever name it has at the moment. */
  async openSegment(lsn: Lsn): Promise<FileHandle> {
    const segment = segmentNumber(lsn)
    for (const partial of [false, true, false]) {
      try {
        return await open(join(this.directory, segmentName(segment, partial)), 'r')
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      }
    }
    throw new ZenithError('not_found', `WAL at ${formatLsn(lsn)} is not stored here any more`)
  }

  /** Reads bytes [lsn, endLsn) from disk; they must lie in one segment. */
  async readWal(lsn: Lsn, endLsn: Lsn): Promise<Buffer> {
    assert(segmentNumber(lsn) === segmentNumber(endLsn - 1), 'a read stays in one segment')
    const handle = await this.openSegment(lsn)
    try {
      const bytes = Buffer.allocUnsafe(endLsn - lsn)
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, segmentOffset(lsn))
      if (bytesRead !== bytes.length) {
        throw new ZenithError('corrupt', `the segment at ${formatLsn(lsn)} is shorter than 16 MiB`)
      }
      return bytes
    } finally {
      await handle.close()
    }
  }

  /** Segments that are on this disk, oldest first. */
  localSegments(): LocalSegment[] {
    const { segments, durableLsn } = this.#store
    return localSegments(segments, durableLsn)
  }

  /** Where the WAL on this disk begins. */
  get localStartLsn(): Lsn {
    return this.#store.localStartLsn
  }

  /**
   * Keeps WAL at and above `lsn` on this disk until the returned function runs (twice is fine). Who
   * holds looks afterwards whether the WAL was still there.
   */
  holdWal(lsn: Lsn): () => void {
    const hold = { lsn }
    this.#holds.add(hold)
    return () => this.#holds.delete(hold)
  }

  /**
   * Removes segments that lie wholly below `lsn`, the oldest first, and none that the stored
   * positions (page server, object storage, commit), the end of the log or a hold still need. Returns
   * where the WAL on this disk begins afterwards.
   */
  async removeWalBelow(lsn: Lsn): Promise<Lsn> {
    const stored = this.#controlFile.stored
    await this.#store.remove(removalBound(lsn, stored, this.flushLsn, this.#holds))
    return this.localStartLsn
  }

  /** Stores lagging positions and lets memory go; called now and then. */
  tick(): void {
    if (this.#halted !== null || this.#closed) return
    this.dispatch({ kind: 'save' })
    if (this.#writtenAtLastTick === this.#store.durableLsn) {
      this.#store.tail.trim(this.#store.durableLsn, 0)
      this.#store.closeIdleFile()
    }
    this.#writtenAtLastTick = this.#store.durableLsn
  }

  /**
   * Stops taking part: cuts connections, makes what is queued durable, stores the control file. False
   * when that could not be done in order.
   */
  async close(): Promise<boolean> {
    for (const connection of [...this.#connections.values()]) connection.close('shutting down')
    this.#closed = true
    this.#failRequests('closed')
    this.#wakeListeners()
    if (!(await this.#store.close()) || this.#halted !== null) return false
    await this.#controlFile.write(this.control)
    return true
  }

  dispatch(event: AcceptorEvent): void {
    if (this.#closed) return
    this.#refuseWhenHalted()
    let effects: AcceptorEffect[]
    try {
      effects = this.#acceptor.step(event)
    } catch (error) {
      this.#halt(errorMessage(error))
      return
    }
    for (const effect of effects) {
      // The bytes are the sender's buffer: keep a copy when the write has to wait its turn.
      if (effect.kind !== 'write') this.#queue.push(effect)
      else {
        this.#queue.push(this.#running ? { ...effect, wal: Buffer.from(effect.wal) } : effect)
        this.#queuedBytes += effect.wal.length
      }
    }
    this.#run()
  }

  #run(): void {
    if (this.#running) return
    this.#running = true
    for (let effect = this.#queue.shift(); effect !== undefined; effect = this.#queue.shift()) {
      const finished = this.#perform(effect)
      if (finished !== null) {
        finished.then(
          () => {
            this.#running = false
            this.#run()
          },
          (error: unknown) => fatalDiskError(error, `a durable step of ${this.directory}`),
        )
        return
      }
    }
    this.#running = false
  }

  /** Starts an effect; null when it is finished already. */
  #perform(effect: AcceptorEffect): Promise<void> | null {
    switch (effect.kind) {
      case 'send':
        this.#send(effect.connection, effect.message)
        return null
      case 'close':
        this.#connections.get(effect.connection)?.close(effect.reason)
        return null
      case 'write':
        this.#context.metrics.receivedBytes.inc(effect.wal.length)
        this.#queuedBytes -= effect.wal.length
        this.#store.write(effect.epoch, effect.lsn, effect.wal)
        return null
      case 'flush':
        return this.#store.flush()
      case 'truncate':
        this.#log.warn(
          { lsn: formatLsn(effect.lsn) },
          'cutting the end of the log for a new leader',
        )
        return this.#store.truncate(effect.lsn)
      case 'persist':
        return this.#persist(effect.control, effect.background)
      case 'committed':
        this.#wakeListeners()
        return null
      case 'answer':
        this.#answer(effect.request, effect.refusal)
        return null
      case 'halt':
        this.#halt(effect.reason)
        return null
    }
  }

  #send(id: number, message: AcceptorMessage): void {
    const connection = this.#connections.get(id)
    if (!connection) return
    if (message.kind === 'ack') message.syncUs = this.#lastSyncUs
    connection.send(message)
  }

  #persist(control: ControlState, background: boolean): Promise<void> | null {
    const done = this.#controlFile.write(control).then(() => {
      if (this.#halted === null) this.dispatch({ kind: 'persisted', commitLsn: control.commitLsn })
    })
    if (!background) {
      const { term, history, configuration } = control
      const { generation } = configuration
      const entry = history.at(-1)
      this.#log.info({ term, historyEnd: entry, generation }, 'storing term, history and members')
      return done
    }
    done.catch((error: unknown) => fatalDiskError(error, `storing the control file`))
    return null
  }

  #halt(reason: string): void {
    this.#halted = reason
    this.#queue = []
    this.#queuedBytes = 0
    this.#log.error({ reason }, 'timeline halted')
    this.#failRequests(reason)
    for (const connection of [...this.#connections.values()]) connection.close(reason)
  }

  #refuseWhenHalted(): void {
    if (this.#halted === null) return
    throw new ZenithError('unavailable', `this timeline is halted: ${this.#halted}`, {
      hint: 'The log of the safekeeper has the details. A restart checks its files anew.',
    })
  }

  #wakeListeners(): void {
    for (const listener of this.#listeners) listener()
  }
}

/** The files of a timeline whose control file has been read or written. */
export function segmentDisk(
  directory: string,
  controlFile: ControlFile,
  { spares }: Pick<TimelineContext, 'spares'>,
): SegmentDisk {
  return new SegmentDisk(directory, { spares, controlFile, start: controlFile.stored })
}

/** End of the segment that holds `lsn`. */
export function segmentEnd(lsn: Lsn): Lsn {
  return (segmentNumber(lsn) + 1) * WAL_SEGMENT_SIZE
}
