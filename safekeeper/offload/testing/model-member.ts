/**
 * Everything around an offload plan, as a model: an object store whose answers may be lost and whose
 * writes may come late, a control file that becomes durable later than it is written, crashes between
 * any two steps, leaders that cut the log. `check` after every step: what the control file calls
 * backed up is there with the right bytes, and nothing leaves the disk that is not.
 */
import { expect } from 'vitest'
import { parseTimelineId } from '#libs/ids.ts'
import { type Lsn, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import {
  type OffloadEffect,
  type OffloadEvent,
  OffloadPlan,
  type OffloadRecord,
  type OffloadView,
} from '../offload-plan.ts'

/** Where the log begins: inside a segment. */
export const START = 3 * WAL_SEGMENT_SIZE + 4096
const TIMELINE = parseTimelineId('00000000000000000000000000000007')
const SETTINGS = { parallel: 5, tailAfterMs: 1000, evictAfterMs: 3000, takeoverMs: 500 }

/** Objects by name; a body is a text that tells which leader wrote which part. */
export class ModelStore {
  readonly objects = new Map<string, string>()
  puts = 0
  /** What was asked for, answered with an error, and still happens. */
  late: (() => void)[] = []

  put(name: string, body: string): boolean {
    if (this.objects.has(name)) return false
    this.objects.set(name, body)
    return true
  }
}

interface Write {
  term: number
  startLsn: Lsn
}

/** What takes time and is answered. */
type Task = Exclude<OffloadEffect, { kind: 'store' | 'awake' | 'asleep' }>

/** One safekeeper: its log, its control file, its plan, and effects under way. */
export class Member {
  readonly id: number
  readonly store: ModelStore
  readonly random: () => number
  writes: Write[] = [{ term: 0, startLsn: START }]
  commitLsn: Lsn = START
  flushLsn: Lsn = START
  cuts = 0
  /** Oldest WAL on the disk, and whether the newest segment is there. */
  diskStart: Lsn = 3 * WAL_SEGMENT_SIZE
  tailOnDisk = true
  /** What a quorum has: no leader cuts it, even when this member has forgotten in a crash. */
  everCommitted: Lsn = START
  record: OffloadRecord = {
    backupLsn: START,
    partialBackups: [],
    eviction: null,
  }
  durable: OffloadView['durable'] = {
    ...this.record,
    commitLsn: START,
    remoteConsistentLsn: START,
  }
  saves: OffloadView['durable'][] = []
  flying: { effect: Task; body: string; cuts: number }[] = []
  inUse = true
  /** Bytes of a record that has begun and was never finished. */
  begunBytes = 0
  remoteConsistentLsn: Lsn = START
  plan: OffloadPlan
  nowMs = 0
  awake = 0
  asleep = 0
  evictions = 0
  conflicts = 0

  constructor(id: number, store: ModelStore, random: () => number) {
    this.id = id
    this.store = store
    this.random = random
    this.plan = this.boot()
  }

  get members(): number[] {
    return [1, 2, 3]
  }

  get lastLogTerm(): number {
    return this.writes.filter((write) => write.startLsn <= this.flushLsn).at(-1)?.term ?? 0
  }

  get view(): OffloadView {
    const { commitLsn, flushLsn, lastLogTerm, cuts, members, durable, inUse } = this
    return {
      startLsn: START,
      commitLsn,
      flushLsn,
      writeLsn: flushLsn + this.begunBytes,
      lastLogTerm,
      cuts,
      localStartLsn: Math.max(START, this.diskStart),
      members,
      durable,
      heldLsn: null,
      inUse,
    }
  }

  bytes(from: Lsn, to: Lsn): string {
    const parts = this.writes.flatMap(({ term, startLsn }, index) => {
      const end = Math.min(this.writes[index + 1]?.startLsn ?? to, to)
      const begin = Math.max(startLsn, from)
      return begin < end ? [`${term}:${begin}-${end}`] : []
    })
    return parts.join(' ')
  }

  boot(): OffloadPlan {
    const { id, random } = this
    const settings = SETTINGS
    return new OffloadPlan({ nodeId: id, timelineId: TIMELINE, settings, random, view: this.view })
  }

  crash(): void {
    this.saves = []
    this.flying = []
    const { backupLsn, partialBackups, eviction } = this.durable
    this.record = { backupLsn, partialBackups, eviction }
    // The end of the log is found by reading it, or told by the control file.
    if (eviction) expect(eviction.flushLsn).toBe(this.flushLsn)
    else expect(this.tailOnDisk).toBe(true)
    this.commitLsn = this.durable.commitLsn
    this.cuts = 0
    this.inUse = false
    this.plan = this.boot()
  }

  step(event: OffloadEvent): void {
    for (const effect of this.plan.step(this.nowMs, this.view, event)) this.#begin(effect)
    if (this.plan.conflict !== null) this.conflicts += 1
  }

  #begin(effect: OffloadEffect): void {
    if (effect.kind === 'store') {
      this.record = effect.record
      this.save()
    } else if (effect.kind === 'awake') {
      expect(this.tailOnDisk).toBe(true)
      expect(this.durable.eviction).toBeNull()
      this.awake += 1
      this.inUse = true
    } else if (effect.kind === 'asleep') this.asleep += 1
    else this.flying.push({ effect, body: this.#read(effect), cuts: this.cuts })
  }

  #read(effect: Task): string {
    if (effect.kind === 'upload-segment' || effect.kind === 'verify-segment') {
      const from = effect.segment * WAL_SEGMENT_SIZE
      expect(from).toBeGreaterThanOrEqual(this.diskStart)
      return this.bytes(from, from + WAL_SEGMENT_SIZE)
    }
    if (effect.kind === 'upload-tail' || effect.kind === 'verify-tail') {
      return this.bytes(effect.flushLsn - segmentOffset(effect.flushLsn), effect.flushLsn)
    }
    return ''
  }

  save(): void {
    const { record, commitLsn, remoteConsistentLsn } = this
    this.saves.push({ ...record, commitLsn, remoteConsistentLsn })
  }

  /** The oldest write of the control file becomes durable. */
  persist(): void {
    const next = this.saves.shift()
    if (next === undefined) return
    this.durable = next
    this.step({ kind: 'tick' })
  }

  /** Finishes one effect under way; `fault` loses the answer, `done` says what happened first. */
  finish(fault: boolean): void {
    const index = Math.floor(this.random() * this.flying.length)
    const [flight] = this.flying.splice(index, 1)
    if (flight === undefined) return
    const { effect } = flight
    // A file that is cut while it is read gives a mixture; committed bytes are never cut.
    const isTail = effect.kind === 'upload-tail' || effect.kind === 'verify-tail'
    const torn = isTail && flight.cuts !== this.cuts
    const body = torn ? `${flight.body} torn ${this.random()}` : flight.body
    const { objects } = this.store
    switch (effect.kind) {
      case 'upload-segment': {
        const { segment } = effect
        this.step({
          kind: 'segment-uploaded',
          segment,
          outcome: this.#put(`${segment}`, body, fault),
        })
        break
      }
      case 'upload-tail': {
        const { name } = effect
        this.step({ kind: 'tail-uploaded', name, outcome: this.#put(name, body, fault) })
        break
      }
      case 'verify-segment': {
        const { segment } = effect
        const outcome = fault ? 'unknown' : compare(objects.get(`${segment}`), body)
        this.step({ kind: 'segment-verified', segment, outcome })
        break
      }
      case 'verify-tail': {
        const outcome = fault ? 'unknown' : compare(objects.get(effect.name), body)
        this.step({ kind: 'tail-verified', name: effect.name, outcome })
        break
      }
      case 'delete-tail': {
        const entry = this.durable.partialBackups.find(({ name }) => name === effect.name)
        expect(entry?.state).toBe('deleting')
        const fate = fault ? this.random() : 0
        if (fate < 0.5) objects.delete(effect.name)
        else if (fate < 0.75) this.store.late.push(() => objects.delete(effect.name))
        this.step({ kind: 'tail-deleted', name: effect.name, done: !fault })
        break
      }
      case 'remove-wal':
        this.#removeBelow(effect.lsn)
        this.step({ kind: 'wal-removed' })
        break
      case 'remove-all-wal':
        expect(this.durable.eviction).toEqual({ flushLsn: this.flushLsn })
        expect(this.inUse).toBe(false)
        this.diskStart = this.flushLsn
        this.tailOnDisk = false
        this.evictions += 1
        this.step({ kind: 'all-wal-removed' })
        break
      case 'restore':
        this.#restore(effect.flushLsn, effect.tail?.name ?? null, fault)
    }
  }

  #put(name: string, body: string, fault: boolean): 'stored' | 'exists' | 'unknown' {
    if (fault && this.random() < 0.5) {
      if (this.random() < 0.5) this.store.late.push(() => this.store.put(name, body))
      return 'unknown'
    }
    if (!this.store.put(name, body)) return fault ? 'unknown' : 'exists'
    this.store.puts += 1
    return fault ? 'unknown' : 'stored'
  }

  #removeBelow(lsn: Lsn): void {
    const { durable } = this
    for (const bound of [durable.backupLsn, durable.commitLsn, durable.remoteConsistentLsn]) {
      expect(Math.floor(lsn / WAL_SEGMENT_SIZE)).toBeLessThanOrEqual(
        Math.floor(bound / WAL_SEGMENT_SIZE),
      )
    }
    this.diskStart = Math.max(this.diskStart, lsn - segmentOffset(lsn))
  }

  #restore(flushLsn: Lsn, name: string | null, fault: boolean): void {
    expect(flushLsn).toBe(this.flushLsn)
    if (fault) {
      this.step({ kind: 'restored', problem: 'the store is away' })
      return
    }
    if (segmentOffset(flushLsn) !== 0) {
      const wanted = this.bytes(flushLsn - segmentOffset(flushLsn), flushLsn)
      expect(this.store.objects.get(name as string)).toBe(wanted)
    }
    this.tailOnDisk = true
    this.diskStart = flushLsn - segmentOffset(flushLsn)
    this.step({ kind: 'restored', problem: null })
  }

  /** What must hold at any moment. */
  check(): void {
    const { durable, store, flushLsn } = this
    this.everCommitted = Math.max(this.everCommitted, this.commitLsn)
    must(durable.backupLsn <= durable.commitLsn, 'backup is not beyond commit')
    const first = Math.floor(START / WAL_SEGMENT_SIZE)
    for (let segment = first; (segment + 1) * WAL_SEGMENT_SIZE <= durable.backupLsn; segment += 1) {
      const from = segment * WAL_SEGMENT_SIZE
      const wanted = this.bytes(from, from + WAL_SEGMENT_SIZE)
      must(store.objects.get(`${segment}`) === wanted, `segment ${segment} is backed up`)
    }
    for (const entry of durable.partialBackups) {
      must(entry.state !== 'uploaded' || store.objects.has(entry.name), `${entry.name} is there`)
    }
    if (durable.eviction === null) return
    must(durable.eviction.flushLsn === flushLsn, 'the control file knows the end of the log')
    must(durable.commitLsn === flushLsn, 'all of an evicted log is committed')
    if (segmentOffset(flushLsn) === 0) return
    const tail = durable.partialBackups.find(
      (entry) => entry.state === 'uploaded' && entry.flushLsn === flushLsn,
    )
    const wanted = this.bytes(flushLsn - segmentOffset(flushLsn), flushLsn)
    must(store.objects.get(tail?.name ?? '') === wanted, 'the tail of an evicted log is there')
  }
}

function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(`broken: ${what}`)
}

function compare(found: string | undefined, wanted: string): 'missing' | 'equal' | 'different' {
  if (found === undefined) return 'missing'
  return found === wanted ? 'equal' : 'different'
}

/** Lets everything come to rest without faults. */
export function settle(members: Member[], ms = 20_000): void {
  for (let spent = 0; spent < ms; spent += 100) {
    for (const member of members) {
      member.nowMs += 100
      member.step({ kind: 'tick' })
      while (member.saves.length > 0 || member.flying.length > 0) {
        member.persist()
        member.finish(false)
      }
      member.check()
    }
  }
}

/** What the plan does while it may be used, and the model allows it. */
export function append(member: Member, bytes: number, term: number): void {
  if (!member.plan.isPresent || !member.inUse) return
  if (term > (member.writes.at(-1)?.term as number)) {
    member.writes.push({ term, startLsn: member.flushLsn })
  }
  member.flushLsn += bytes
}
