/**
 * The plan against a model of everything around it: an object store whose answers may be lost and
 * whose writes may come late, a control file that becomes durable later than it is written, crashes
 * between any two steps, leaders that cut the log. After every step: what the control file calls backed
 * up is there with the right bytes, and nothing leaves the disk that is not.
 */
import { describe, expect, it, test } from 'vitest'
import { parseTimelineId } from '#libs/ids.ts'
import { type Lsn, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import {
  type OffloadEffect,
  type OffloadEvent,
  OffloadPlan,
  type OffloadRecord,
  type OffloadView,
} from './offload-plan.ts'
import { tailName } from './wal-objects.ts'

const MIB = 1024 * 1024
const START = 3 * WAL_SEGMENT_SIZE + 4096
const TIMELINE = parseTimelineId('00000000000000000000000000000007')
const SETTINGS = { parallel: 5, tailAfterMs: 1000, evictAfterMs: 3000, takeoverMs: 500 }

function prng(seed: number): () => number {
  let state = seed + 0x9e3779b9
  return () => {
    state = Math.imul(state ^ (state >>> 15), 0x85ebca6b)
    state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35)
    state ^= state >>> 16
    return (state >>> 0) / 4294967296
  }
}

/** Objects by name; a body is a text that tells which leader wrote which part. */
class ModelStore {
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
class Member {
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
function settle(members: Member[], ms = 20_000): void {
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
function append(member: Member, bytes: number, term: number): void {
  if (!member.plan.isPresent || !member.inUse) return
  if (term > (member.writes.at(-1)?.term as number)) {
    member.writes.push({ term, startLsn: member.flushLsn })
  }
  member.flushLsn += bytes
}

describe('full segments', () => {
  function uploads(member: Member): number[] {
    return member.flying.flatMap(({ effect }) =>
      effect.kind === 'upload-segment' ? [effect.segment] : [],
    )
  }

  it('go up five at a time, and the backup position moves in order', () => {
    const member = new Member(1, new ModelStore(), () => 0.99)
    append(member, 120 * MIB, 1)
    member.commitLsn = member.flushLsn
    member.step({ kind: 'tick' })
    expect(uploads(member)).toEqual([3, 4, 5, 6, 7])
    // random 0.99 picks the newest first.
    for (let count = 0; count < 4; count += 1) member.finish(false)
    while (member.saves.length > 0) member.persist()
    expect(member.durable.backupLsn).toBe(START)
    member.finish(false)
    while (member.flying.some(({ effect }) => effect.kind !== 'upload-segment')) {
      member.finish(false)
    }
    settle([member], 100)
    expect(member.durable.backupLsn).toBe(10 * WAL_SEGMENT_SIZE)
  })

  it('never beyond commit', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, 64 * MIB, 1)
    member.commitLsn = 4 * WAL_SEGMENT_SIZE + 8
    settle([member], 500)
    expect([...member.store.objects.keys()]).toEqual(['3'])
    expect(member.durable.backupLsn).toBe(4 * WAL_SEGMENT_SIZE)
  })

  it('an object with the same bytes is success, with others a halt that keeps all WAL', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, 40 * MIB, 1)
    member.commitLsn = member.flushLsn
    member.remoteConsistentLsn = member.flushLsn
    member.save()
    member.store.objects.set('3', member.bytes(3 * WAL_SEGMENT_SIZE, 4 * WAL_SEGMENT_SIZE))
    member.store.objects.set('4', 'something else')
    settle([member], 2000)
    expect(member.store.puts).toBe(0)
    expect(member.durable.backupLsn).toBeLessThanOrEqual(4 * WAL_SEGMENT_SIZE)
    expect(member.plan.conflict).toMatch(/0\/4000000 holds other bytes/)
    member.inUse = false
    settle([member])
    expect([member.evictions, member.diskStart]).toEqual([0, 3 * WAL_SEGMENT_SIZE])
  })

  it('a member that is chosen and gets nowhere is replaced by the next', () => {
    const members = [1, 2, 3].map((id) => new Member(id, new ModelStore(), () => 0.5))
    for (const member of members) {
      append(member, 40 * MIB, 1)
      member.commitLsn = member.flushLsn
      member.step({ kind: 'tick' })
    }
    expect(members.map((member) => uploads(member).length)).toEqual([2, 0, 0])
    const [, second, third] = members as [Member, Member, Member]
    second.nowMs = 600
    second.step({ kind: 'tick' })
    third.nowMs = 600
    third.step({ kind: 'tick' })
    expect([uploads(second).length, uploads(third).length]).toEqual([2, 0])
  })

  it('what a peer says it has uploaded is compared, not believed', () => {
    const member = new Member(2, new ModelStore(), () => 0.5)
    append(member, 40 * MIB, 1)
    member.commitLsn = member.flushLsn
    const { flushLsn } = member
    member.step({
      kind: 'peers',
      peers: [{ nodeId: 1, commitLsn: flushLsn, backupLsn: flushLsn, localStartLsn: START }],
    })
    // The choice falls on member 2 itself by the timeline's id: let its time pass.
    expect(member.flying.length).toBeGreaterThan(0)
    settle([member], 5000)
    member.check()
    expect(member.durable.backupLsn).toBe(5 * WAL_SEGMENT_SIZE)
  })
})

describe('the tail', () => {
  it('is copied once the log is quiet, after its intent is stored, and replaced when it grew', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, MIB, 1)
    member.commitLsn = member.flushLsn
    member.step({ kind: 'tick' })
    member.nowMs = 1100
    member.step({ kind: 'tick' })
    const first = tailName({ ...member.view, nodeId: 1 })
    expect(member.record.partialBackups).toMatchObject([{ name: first, state: 'uploading' }])
    expect(member.flying.some(({ effect }) => effect.kind === 'upload-tail')).toBe(false)
    member.persist()
    expect(member.flying.some(({ effect }) => effect.kind === 'upload-tail')).toBe(true)
    settle([member], 500)
    append(member, MIB, 1)
    member.commitLsn = member.flushLsn
    settle([member], 2500)
    const second = tailName({ ...member.view, nodeId: 1 })
    expect(member.durable.partialBackups).toMatchObject([{ name: second, state: 'uploaded' }])
    expect([...member.store.objects.keys()]).toEqual([second])
  })

  it('is skipped when the log ends at a segment start', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, 5 * WAL_SEGMENT_SIZE - START, 1)
    member.commitLsn = member.flushLsn
    settle([member])
    expect([...member.store.objects.keys()].sort()).toEqual(['3', '4'])
    expect(member.durable.partialBackups).toEqual([])
  })

  it('is given up when a leader cuts the log while it travels', () => {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, MIB, 1)
    settle([member], 1000)
    member.nowMs += 100
    member.step({ kind: 'tick' })
    while (member.saves.length > 0) member.persist()
    expect(member.flying.some(({ effect }) => effect.kind === 'upload-tail')).toBe(true)
    const { flushLsn } = member
    member.cuts += 1
    member.writes = [
      { term: 0, startLsn: START },
      { term: 2, startLsn: START },
    ]
    member.flushLsn = flushLsn
    settle([member], 500)
    expect(member.durable.partialBackups).toEqual([])
    expect(member.store.objects.size).toBe(0)
  })
})

describe('eviction', () => {
  function idle(): Member {
    const member = new Member(1, new ModelStore(), () => 0.5)
    append(member, 33 * MIB, 1)
    member.commitLsn = member.flushLsn
    member.save()
    settle([member], 500)
    member.inUse = false
    return member
  }

  it('leaves the disk when all is in object storage, and comes back when woken', () => {
    const member = idle()
    settle([member], 6000)
    expect([member.evictions, member.tailOnDisk, member.plan.isPresent]).toEqual([1, false, false])
    member.step({ kind: 'wake' })
    expect(member.awake).toBe(0)
    settle([member], 100)
    expect([member.awake, member.tailOnDisk, member.plan.isPresent]).toEqual([1, true, true])
  })

  it('tells who woke it when it cannot, and can later', () => {
    const member = idle()
    settle([member], 6000)
    member.step({ kind: 'wake' })
    member.finish(true)
    expect([member.asleep, member.awake]).toEqual([1, 0])
    member.step({ kind: 'wake' })
    settle([member], 6000)
    expect(member.awake).toBe(1)
  })

  it('does not leave with a record that has begun and was never finished', () => {
    const member = idle()
    member.begunBytes = 100
    settle([member], 8000)
    expect([member.evictions, member.plan.isPresent]).toEqual([0, true])
    // A new leader has cut it.
    member.begunBytes = 0
    settle([member], 8000)
    expect(member.evictions).toBe(1)
  })

  it('does not leave while it is used, nor with a tail whose object is gone', () => {
    const member = idle()
    member.inUse = true
    settle([member])
    expect(member.evictions).toBe(0)
    const [name] = [...member.store.objects.keys()].filter((key) => key.includes('_'))
    expect(name).toBeDefined()
    // Kept from being checked by `check`, which knows that it must be there.
    const object = member.store.objects.get(name as string) as string
    member.store.objects.set(name as string, `${object} rotten`)
    member.inUse = false
    settle([member], 8000)
    // It was made anew before the timeline left.
    expect(member.evictions).toBe(1)
    expect(member.store.objects.get(name as string)).toBe(object)
  })
})

test('a thousand steps with faults, crashes and cuts, many times over', () => {
  const seen = { evictions: 0, awake: 0, cuts: 0, removed: 0, tails: 0, crashes: 0 }
  for (let seed = 1; seed <= 60; seed += 1) {
    const random = prng(seed)
    const member = new Member(1, new ModelStore(), random)
    const chance = (probability: number) => random() < probability
    let term = 1
    for (let count = 0; count < 1000; count += 1) {
      member.nowMs += random() * (chance(0.1) ? 3000 : 60)
      if (chance(0.3)) append(member, 8 * Math.floor(random() * (chance(0.1) ? 4e6 : 1e5)), term)
      if (chance(0.2)) {
        member.commitLsn += Math.floor(random() * (member.flushLsn - member.commitLsn + 1))
      }
      if (chance(0.1)) member.commitLsn = member.flushLsn
      if (chance(0.05)) {
        member.remoteConsistentLsn = Math.max(member.remoteConsistentLsn, member.commitLsn)
        member.save()
      }
      if (chance(0.02) && member.plan.isPresent && member.inUse) {
        // A new leader keeps what is committed, and something of the rest.
        term += 1
        member.check()
        const { everCommitted, flushLsn } = member
        const cut = everCommitted + Math.floor(random() * (flushLsn - everCommitted + 1))
        member.writes = member.writes.filter((write) => write.startLsn <= cut)
        member.writes.push({ term, startLsn: cut })
        if (cut < flushLsn) member.cuts += 1
        member.flushLsn = cut
        seen.cuts += 1
      }
      if (chance(0.02)) member.inUse = false
      if (chance(0.02)) member.step({ kind: 'wake' })
      if (chance(0.02)) for (const happen of member.store.late.splice(0)) happen()
      if (chance(0.6)) member.persist()
      if (chance(0.6)) member.finish(chance(0.2))
      if (chance(0.01)) {
        member.crash()
        seen.crashes += 1
      }
      member.step({ kind: 'tick' })
      member.check()
    }
    seen.tails += [...member.store.objects.keys()].filter((key) => key.includes('_')).length
    member.step({ kind: 'wake' })
    settle([member], 10_000)
    expect(member.awake).toBeGreaterThan(0)
    member.commitLsn = member.flushLsn
    member.remoteConsistentLsn = member.flushLsn
    member.inUse = false
    member.save()
    settle([member], 30_000)
    expect(member.conflicts).toBe(0)
    // All is quiet: one tail at most is left, the disk is empty.
    expect(member.plan.isPresent).toBe(false)
    expect(member.durable.partialBackups.filter(({ state }) => state !== 'uploaded')).toEqual([])
    expect(member.durable.partialBackups.length).toBeLessThanOrEqual(1)
    seen.evictions += member.evictions
    seen.awake += member.awake
    if (member.diskStart > 3 * WAL_SEGMENT_SIZE) seen.removed += 1
  }
  for (const [what, times] of Object.entries(seen)) expect(times, what).toBeGreaterThan(30)
})
