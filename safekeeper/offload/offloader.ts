/** Runs the effects of a timeline's `OffloadPlan` on its disk and on object storage. */
import type { FileHandle } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { type Lsn, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { allMembers } from '#libs/protocol/quorum.ts'
import type { ControlState, PartialBackup } from '../control-state.ts'
import {
  type OffloadEffect,
  type OffloadEvent,
  OffloadPlan,
  type OffloadRecord,
  type OffloadView,
} from './offload-plan.ts'
import type { OffloadService } from './offload-service.ts'
import { checkTail } from './segment-check.ts'
import { compareObject, readStart, type Told, upload } from './transfers.ts'
import { segmentObject, tailObject } from './wal-objects.ts'

const RETRY_MS = 50
const WAKE_TIMEOUT_MS = 60_000
/** How long a stop waits for transfers that are under way. */
const CLOSE_TIMEOUT_MS = 5_000
const COMPLAIN_EVERY_MS = 30_000

/** The timeline, as its offloader uses it. */
export interface OffloadHost {
  /** Newest state, and newest state known to be on disk. */
  readonly control: ControlState
  readonly stored: ControlState
  readonly flushLsn: Lsn
  readonly writeLsn: Lsn
  readonly lastLogTerm: number
  readonly cuts: number
  readonly localStartLsn: Lsn
  readonly heldLsn: Lsn | null
  readonly inUse: boolean
  /** It is closed or must not go on. */
  readonly stopped: boolean
  /** Stores what the plan decided in the control file, in the background. */
  recordOffload(record: OffloadRecord): void
  removeWalBelow(lsn: Lsn): Promise<Lsn>
  openLocalSegment(lsn: Lsn): Promise<FileHandle>
  /** Removes all WAL from this disk; the control file says that it is evicted. */
  leaveDisk(): Promise<void>
  /** Puts the newest segment back, up to the end of the log; null when nothing of it is written. */
  returnToDisk(tail: Buffer | null): Promise<void>
}

export class Offloader {
  readonly #host: OffloadHost
  readonly #service: OffloadService
  readonly #log: Logger
  readonly #plan: OffloadPlan
  readonly #running = new Set<Promise<void>>()
  #waiters: { resolve: () => void; reject: (error: ZenithError) => void }[] = []
  #complainedAtMs = Number.NEGATIVE_INFINITY
  #conflictLogged = false
  #failure: string | null = null
  #closed = false

  constructor(host: OffloadHost, service: OffloadService, nodeId: number) {
    this.#host = host
    this.#service = service
    const { timelineId } = host.control
    this.#log = service.log.child({ timeline: timelineId })
    const { settings } = service
    const view = this.#view
    this.#plan = new OffloadPlan({ nodeId, timelineId, settings, random: Math.random, view })
    service.add(this)
  }

  /** Why offloading has stopped for good; null while all is well. */
  get problem(): string | null {
    return this.#failure ?? this.#plan.conflict
  }

  /** WAL may be appended and read here. */
  get isPresent(): boolean {
    return this.#plan.isPresent
  }

  /** Looks at what is due. Cheap; called whenever positions may have moved, and now and then. */
  kick(): void {
    if (this.#closed || this.#host.stopped) return
    this.#step({ kind: 'peers', peers: this.#service.peersOf(this.#host.control) })
  }

  /**
   * Resolves when the timeline is on this disk. Whoever asks marks it as in use before, and until it
   * is done. Throws `unavailable` when it cannot be had from object storage now.
   */
  async wake(): Promise<void> {
    if (this.isPresent && this.#closed) return
    if (this.#closed) throw asleep(this.#failure ?? 'this timeline is being closed here')
    const timeout = AbortSignal.timeout(WAKE_TIMEOUT_MS)
    await new Promise<void>((resolve, reject) => {
      this.#waiters.push({ resolve, reject })
      timeout.onabort = () => reject(asleep('object storage does not answer'))
      this.#step({ kind: 'wake' })
    })
  }

  /** Stops; resolves when nothing is under way any more, or after a while. */
  async close(): Promise<void> {
    this.#closed = true
    this.#service.remove(this)
    this.#rejectWaiters('the safekeeper is stopping')
    const calm = Promise.allSettled(this.#running)
    await Promise.race([calm, sleep(CLOSE_TIMEOUT_MS, undefined, { ref: false })])
  }

  get #view(): OffloadView {
    const host = this.#host
    const { control, stored } = host
    return {
      startLsn: control.startLsn,
      commitLsn: control.commitLsn,
      flushLsn: host.flushLsn,
      writeLsn: host.writeLsn,
      lastLogTerm: host.lastLogTerm,
      cuts: host.cuts,
      localStartLsn: host.localStartLsn,
      members: allMembers(control.configuration).map(({ id }) => id),
      durable: stored,
      heldLsn: host.heldLsn,
      inUse: host.inUse,
    }
  }

  #step(event: OffloadEvent): void {
    if (this.#closed || this.#host.stopped) return
    let effects: OffloadEffect[]
    try {
      effects = this.#plan.step(performance.now(), this.#view, event)
    } catch (error) {
      this.#giveUp(error)
      return
    }
    for (const effect of effects) this.#begin(effect)
    const { conflict } = this.#plan
    if (conflict === null || this.#conflictLogged) return
    this.#conflictLogged = true
    this.#log.error({ reason: conflict }, 'copying WAL to object storage has stopped for good')
  }

  #begin(effect: OffloadEffect): void {
    if (effect.kind === 'store') this.#host.recordOffload(effect.record)
    else if (effect.kind === 'awake') {
      for (const { resolve } of this.#waiters.splice(0)) resolve()
    } else if (effect.kind === 'asleep') {
      this.#log.warn({ reason: effect.reason }, 'the timeline could not be brought back')
      this.#rejectWaiters(effect.reason)
    } else {
      const task = this.#perform(effect)
        .then((event) => this.#step(event))
        .catch((error: unknown) => this.#giveUp(error))
        .finally(() => this.#running.delete(task))
      this.#running.add(task)
    }
  }

  /** A broken invariant, or a disk that cannot remove files: all stays as it is until the next start. */
  #giveUp(error: unknown): void {
    this.#failure = errorMessage(error)
    this.#log.error({ err: error }, 'offloading of this timeline has failed')
    this.#closed = true
    this.#rejectWaiters(this.#failure)
  }

  async #perform(
    effect: Exclude<OffloadEffect, { kind: 'store' | 'awake' | 'asleep' }>,
  ): Promise<OffloadEvent> {
    const { metrics } = this.#service
    const host = this.#host
    switch (effect.kind) {
      case 'upload-segment': {
        const { segment } = effect
        const name = segmentObject(host.control, segment)
        const lsn = segment * WAL_SEGMENT_SIZE
        const outcome = await this.#upload(name, lsn, WAL_SEGMENT_SIZE)
        if (outcome === 'stored') metrics.offloadedBytes.inc(WAL_SEGMENT_SIZE)
        return { kind: 'segment-uploaded', segment, outcome }
      }
      case 'verify-segment': {
        const { segment } = effect
        const name = segmentObject(host.control, segment)
        const outcome = await this.#compare(name, segment * WAL_SEGMENT_SIZE, WAL_SEGMENT_SIZE)
        return { kind: 'segment-verified', segment, outcome }
      }
      case 'upload-tail': {
        const { name, flushLsn } = effect
        const object = tailObject(host.control, name)
        const length = segmentOffset(flushLsn)
        const outcome = await this.#upload(object, flushLsn - length, length)
        if (outcome === 'stored') metrics.offloadedBytes.inc(length)
        return { kind: 'tail-uploaded', name, outcome }
      }
      case 'verify-tail': {
        const { name, flushLsn } = effect
        const object = tailObject(host.control, name)
        const length = segmentOffset(flushLsn)
        const outcome = await this.#compare(object, flushLsn - length, length)
        return { kind: 'tail-verified', name, outcome }
      }
      case 'delete-tail':
        return { kind: 'tail-deleted', name: effect.name, done: await this.#delete(effect.name) }
      case 'remove-wal':
        await host.removeWalBelow(effect.lsn)
        return { kind: 'wal-removed' }
      case 'remove-all-wal':
        await host.leaveDisk()
        return { kind: 'all-wal-removed' }
      case 'restore': {
        const problem = await this.#restore(effect.flushLsn, effect.tail)
        return { kind: 'restored', problem }
      }
    }
  }

  /** A transfer within the bounds of the process; complains about errors, but not each time. */
  async #transfer<T>(run: () => Promise<Told<T>>): Promise<T> {
    const { outcome, error } = await this.#service.limited(run)
    if (error !== null) this.#complain(error)
    return outcome
  }

  #complain(error: unknown): void {
    this.#service.metrics.offloadFailures.inc()
    setTimeout(() => this.kick(), RETRY_MS).unref()
    const nowMs = performance.now()
    if (nowMs - this.#complainedAtMs < COMPLAIN_EVERY_MS) return
    this.#complainedAtMs = nowMs
    this.#log.warn({ err: error }, 'object storage does not do what was asked; trying again')
  }

  #upload(name: string, lsn: Lsn, length: number) {
    const open = () => this.#host.openLocalSegment(lsn)
    const { store } = this.#service
    return this.#transfer(() => upload(store, name, () => readStart(open, length)))
  }

  #compare(name: string, lsn: Lsn, length: number) {
    const open = () => this.#host.openLocalSegment(lsn)
    return this.#transfer(() => compareObject(this.#service.store, name, open, length))
  }

  async #delete(name: string): Promise<boolean> {
    const object = tailObject(this.#host.control, name)
    try {
      await this.#service.limited(() => this.#service.store.delete(object))
      return true
    } catch (error) {
      this.#complain(error)
      return false
    }
  }

  /** Returns what went wrong; null when the end of the log is back and right. */
  async #restore(flushLsn: Lsn, tail: PartialBackup | null): Promise<string | null> {
    const host = this.#host
    try {
      if (segmentOffset(flushLsn) === 0) await host.returnToDisk(null)
      else if (tail === null) return 'the control file does not name the end of its log'
      else {
        const object = tailObject(host.control, tail.name)
        const bytes = await this.#service.limited(() => this.#service.store.get(object))
        await checkTail(bytes, flushLsn, host.control.startLsn)
        await host.returnToDisk(bytes)
        this.#service.metrics.archiveReadBytes.inc(bytes.length)
      }
      this.#service.metrics.restores.inc()
      return null
    } catch (error) {
      this.#service.metrics.offloadFailures.inc()
      return errorMessage(error)
    }
  }

  #rejectWaiters(reason: string): void {
    for (const { reject } of this.#waiters.splice(0)) reject(asleep(reason))
  }
}

function asleep(reason: string): ZenithError {
  return new ZenithError(
    'unavailable',
    `this timeline is in object storage only and cannot be brought back now: ${reason}`,
    { hint: 'Nothing is lost. It comes back by itself once its object can be read.' },
  )
}
