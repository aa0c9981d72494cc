/**
 * One timeline on a safekeeper: runs the acceptor's effects on real files and connections, strictly
 * in order (see acceptor.ts for why the order matters), and tells readers when more WAL is there.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn, segmentNumber } from '#libs/lsn.ts'
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
import type { ControlFile } from './store/control-file.ts'
import type { ControlState } from './control-state.ts'
import { fatalDiskError } from './store/files.ts'
import { type LocalSegment, localSegments, removalBound } from './store/local-segments.ts'
import type { SegmentDisk } from './store/segment-disk.ts'
import { segmentName, type SegmentRange } from './store/segment-plan.ts'
import { Offloader } from './offload/offloader.ts'
import type { OffloadRecord } from './offload/offload-plan.ts'
import { removeAllWal, restoreTail } from './offload/residence.ts'
import { openSegment, type SegmentReader } from './offload/segment-reader.ts'
import { leadBytes } from './store/wal-lead.ts'
import { WalStore } from './store/wal-store.ts'
import type { TimelineContext } from './timeline-context.ts'
import {
  createTimelineFiles,
  openTimelineFiles,
  segmentDisk,
  type TimelineFiles,
} from './timeline-files.ts'
import { TimelineRequests } from './timeline-requests.ts'

/** A proposer's connection, as the timeline uses it. */
export interface ProposerConnection {
  readonly id: number
  send(message: AcceptorMessage): void
  close(reason: string): void
}

export class Timeline {
  readonly directory: string
  readonly #acceptor: Acceptor
  readonly #controlFile: ControlFile
  readonly #disk: SegmentDisk
  #store: WalStore
  readonly #offloader: Offloader | null
  readonly #log: Logger
  readonly #connections = new Map<number, ProposerConnection>()
  readonly #standbys = new Map<object, StandbyXmins>()
  readonly #listeners = new Set<() => void>()
  readonly #durableListeners = new Set<() => void>()
  readonly #context: TimelineContext
  readonly #holds = new Set<{ lsn: Lsn }>()
  /** Those who need the timeline on this disk. */
  #occupants = 0
  #committedSegment = 0
  #queue: AcceptorEffect[] = []
  /** WAL in writes that wait for an earlier effect. */
  #queuedBytes = 0
  #running = false
  #halted: string | null = null
  #lastSyncUs = 0
  #readers = 0
  #writtenAtLastTick: Lsn = 0
  #closed = false
  readonly #requests = new TimelineRequests()

  private constructor(
    { directory, controlFile, recovered }: TimelineFiles,
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
    this.#disk = segmentDisk(directory, controlFile, context)
    this.#store = this.#openStore(control.localStartLsn, segments)
    const { offload } = context
    this.#offloader = offload && new Offloader(this, offload, nodeId)
  }

  #openStore(localStartLsn: Lsn, segments: SegmentRange | null): WalStore {
    const { slots, metrics } = this.#context
    return new WalStore({
      disk: this.#disk,
      slots,
      startLsn: this.#acceptor.control.startLsn,
      localStartLsn,
      endLsn: this.#acceptor.flushLsn,
      segments,
      onDurable: (epoch, writeLsn, syncUs) => {
        this.#lastSyncUs = syncUs
        metrics.syncSeconds.observe(syncUs / 1e6)
        if (this.#halted === null) this.dispatch({ kind: 'flushed', epoch, writeLsn })
        for (const listener of this.#durableListeners) listener()
      },
      onFull: (error) =>
        this.#log.error({ err: error }, 'no space for a WAL segment; trying again each second'),
    })
  }

  /** Makes its folder. */
  static async create(
    directory: string,
    control: ControlState,
    context: TimelineContext,
  ): Promise<Timeline> {
    return new Timeline(await createTimelineFiles(directory, control, context), context)
  }

  /** Opens a timeline from disk. Throws `corrupt` when its files cannot be trusted. */
  static async open(
    directory: string,
    context: TimelineContext,
    afterCleanStop: boolean,
  ): Promise<Timeline> {
    return new Timeline(await openTimelineFiles(directory, context, afterCleanStop), context)
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

  /** End of what was received. */
  get writeLsn(): Lsn {
    return this.#acceptor.writeLsn
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

  /** How often this process has cut the log. */
  get cuts(): number {
    return this.#acceptor.cuts
  }

  /** Lowest position that somebody holds; null for none. */
  get heldLsn(): Lsn | null {
    if (this.#holds.size === 0) return null
    return Math.min(...[...this.#holds].map((hold) => hold.lsn))
  }

  /** Somebody writes to it, or needs it on this disk. */
  get inUse(): boolean {
    return this.#connections.size > 0 || this.#occupants > 0
  }

  /** It does no work any more. */
  get stopped(): boolean {
    return this.#closed || this.#halted !== null
  }

  /** All its WAL is in object storage and none on this disk. */
  get evicted(): boolean {
    return this.#offloader?.isPresent === false
  }

  /** Why no more WAL goes to object storage; null while all is well. */
  get offloadProblem(): string | null {
    return this.#offloader?.problem ?? null
  }

  get readers(): number {
    return this.#readers
  }

  /** WAL that was received and is not durable yet. */
  get backlogBytes(): number {
    return this.#store.backlogBytes + this.#queuedBytes
  }

  /** What the segments of this timeline take on disk. */
  get diskBytes(): number {
    return this.#store.diskBytes
  }

  /** Why this timeline cannot have another segment at present; null when it can. */
  get segmentRefusal(): string | null {
    const { limits, totalDiskBytes } = this.#context
    return limits.refusal(this.#store.diskBytes, totalDiskBytes(), 1)
  }

  /** Why WAL up to `endLsn` cannot be taken for lack of space; null when it can. */
  spaceRefusal(endLsn: Lsn): string | null {
    const segments = this.#store.missingSegments(endLsn)
    if (segments === 0) return null
    const { limits, totalDiskBytes } = this.#context
    return limits.refusal(this.#store.diskBytes, totalDiskBytes(), segments)
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
    assert(!this.evicted, 'a timeline is occupied before it is written to')
    this.#connections.set(connection.id, connection)
  }

  detach(connection: ProposerConnection): void {
    if (!this.#connections.delete(connection.id) || this.#halted !== null) return
    this.dispatch({ kind: 'disconnected', connection: connection.id })
  }

  receive(connection: number, message: ProposerMessage): void {
    if (message.kind === 'append' && message.wal.length > 0) {
      const refusal = this.spaceRefusal(message.endLsn)
      if (refusal !== null) {
        this.#context.metrics.refusedAppends.inc()
        this.#connections.get(connection)?.close(refusal)
        return
      }
    }
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

  /**
   * Keeps the timeline on this disk until the returned function runs, and brings it back before if
   * it is in object storage only. Throws `unavailable` when that cannot be done now.
   */
  async occupy(): Promise<() => void> {
    this.#occupants += 1
    let occupied = true
    const leave = () => {
      if (occupied) this.#occupants -= 1
      occupied = false
    }
    try {
      await this.#offloader?.wake()
    } catch (error) {
      leave()
      throw error
    }
    return leave
  }

  recordOffload(record: OffloadRecord): void {
    this.dispatch({ kind: 'offload', record })
  }

  async leaveDisk(): Promise<void> {
    await this.#store.close()
    await removeAllWal(this.#disk, this.flushLsn)
    this.#store = this.#openStore(this.flushLsn, null)
  }

  async returnToDisk(tail: Buffer | null): Promise<void> {
    const { flushLsn, control } = this
    const back = await restoreTail(this.#disk, tail, flushLsn, control.startLsn)
    this.#store = this.#openStore(back.localStartLsn, back.segments)
  }

  async #ask(event: (request: number) => AcceptorEvent): Promise<void> {
    this.#refuseWhenHalted()
    if (this.#closed) throw new ZenithError('unavailable', 'this timeline is closed')
    await this.#requests.ask((request) => this.dispatch(event(request)))
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

  /** Opens the segment that holds `lsn`: on this disk, or else from object storage. */
  openSegment(lsn: Lsn): Promise<SegmentReader> {
    return openSegment(this, this.#context.offload?.archive ?? null, lsn)
  }

  /** Opens the segment's file, whichever name it has at the moment. */
  async openLocalSegment(lsn: Lsn): Promise<FileHandle> {
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
    this.#requests.fail('closed')
    this.#wakeListeners()
    await this.#offloader?.close()
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
        if (segmentNumber(effect.lsn) > this.#committedSegment) {
          this.#committedSegment = segmentNumber(effect.lsn)
          this.#offloader?.kick()
        }
        return null
      case 'answer':
        this.#requests.answer(effect.request, effect.refusal)
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
      this.#offloader?.kick()
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
    this.#requests.fail(reason)
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
