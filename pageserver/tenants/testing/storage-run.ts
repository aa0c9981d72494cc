/**
 * A random history over a real tenant and its model: performs each kind of operation on all shards,
 * and compares what is read with what the model says. One number replays a batch of puts.
 */
import { readFile, unlink, writeFile } from 'node:fs/promises'
import { expect } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import { timestampNow } from '#libs/pg/timestamp.ts'
import { shardOfBlock } from '#libs/sharding.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../../keyspace/key-class.ts'
import { freeMemory } from '../../threads/free-memory.ts'
import type { DeltaFiles } from '../../timeline/delta-writer.ts'
import type { StorageLimits } from '../../timeline/storage-context.ts'
import type { Timeline } from '../../timeline/timeline.ts'
import type { Tenant } from '../tenant.ts'
import { HistoryModel, type ModelVersion } from './history-model.ts'
import { anyChange, BLOCKS, blocksAt, firstBlock, random, RELS, sizeOf } from './random-change.ts'
import { ScratchServer, type ScratchShards } from './scratch-server.ts'
import { putToyCheckpoint } from './toy-checkpoint.ts'

export const START_LSN = 0x1000000
const DAY_MS = 86_400_000
const MAX_TIMELINES = 8
const MAX_SHARDS = 4
/** At the end this many LSNs of each timeline are read whole, beside those that must be kept. */
const FINAL_LSNS = 6

/** What a crash does to local files. */
export type Loss = 'nothing' | 'some' | 'zeros' | 'cut' | 'all'

/** What a crash leaves done or not done, but for what it says of the timeline. */
export type Interrupted = 'archive' | 'unarchive' | 'delete'
const RESULT = { archive: 'archived', unarchive: null, delete: 'deleted' } as const

interface Known {
  model: HistoryModel
  parent: TimelineId | null
  branchLsn: number
  /** Ends of what was published, where a checkpoint was put. */
  checkpoints: number[]
  leases: number[]
  isArchived: boolean
}

export class StorageRun implements AsyncDisposable {
  readonly server: ScratchServer
  #shards: ScratchShards | null
  readonly #known = new Map<TimelineId, Known>()
  readonly #deleted: TimelineId[] = []
  #current!: TimelineId

  private constructor(server: ScratchServer, shards: ScratchShards | null) {
    this.server = server
    this.#shards = shards
  }

  /** A tenant with one timeline that has some pages. Layers are written in this thread unless given. */
  static async begin(
    limits: Partial<StorageLimits>,
    shards: ScratchShards | null = null,
    deltaFiles: DeltaFiles | null = null,
    startLsn: Lsn = START_LSN,
  ): Promise<StorageRun> {
    const server = await ScratchServer.start(limits, undefined, shards ?? undefined)
    if (deltaFiles) {
      server.deltaFiles = deltaFiles
      await server.restart()
    }
    const run = new StorageRun(server, shards)
    await run.#bootstrap(startLsn)
    return run
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop()
  }

  put(count: number, seed: number, publish: boolean): void {
    const next = random(seed)
    const { model, checkpoints } = this.#now
    let lsn = model.versions.reduce((max, version) => Math.max(max, version.lsn), model.lastLsn)
    const timelines = this.#timelines(this.#current)
    const blocks = (rel: number) => blocksAt(model, rel, Number.POSITIVE_INFINITY)
    for (let index = 0; index < count; index++) {
      // Few of them are far apart.
      const far = next(200) === 0 ? 8 * next(2 ** 30) : 0
      const near = next(3) > 0 || index === 0 ? 8 * (1 + next(20)) : 0
      for (const { step, ...change } of anyChange(next, near + far, blocks)) {
        lsn += step
        const version = { lsn, ...change }
        model.put(version)
        for (const timeline of timelines) putInto(timeline, version)
      }
    }
    if (!publish || lsn === model.lastLsn) return
    for (const timeline of timelines) {
      putToyCheckpoint(timeline, lsn, timestampNow())
      timeline.publish(lsn)
    }
    checkpoints.push(lsn)
    model.lastLsn = lsn
  }

  async branch(back: number): Promise<void> {
    if (this.#known.size >= MAX_TIMELINES) return
    await this.#branchAt(this.#placeBack(back))
  }

  /** Goes on with another timeline that is open. */
  use(which: number): void {
    const open = this.#open()
    this.#current = (open[which % open.length] as [TimelineId, Known])[0]
  }

  /** Each shard in its own order of steps, so that they are durable up to different LSNs. */
  async flush(seed: number): Promise<void> {
    const next = random(seed)
    for (const timeline of this.#timelines(this.#current)) {
      if (this.#shards === null || next(3) > 0) await timeline.flush()
    }
    // Memory of what was written comes back for what is put next.
    freeMemory()
  }

  compact(): Promise<void> {
    return this.#each((timeline) => timeline.compaction.compactL0())
  }

  images(): Promise<void> {
    return this.#each((timeline) => timeline.createImageLayers())
  }

  bottom(): Promise<void> {
    return this.#each((timeline) => timeline.compaction.compactBottom())
  }

  settle(): Promise<void> {
    return this.#each((timeline) => timeline.settle())
  }

  async collect(back: number, id = this.#current): Promise<void> {
    const history = { pitrIntervalMs: DAY_MS, pitrBytes: back * 8 }
    for (const tenant of this.server.shards) await tenant.collectGarbage(id, history)
    const { model } = this.#of(id)
    expect(this.#cutoff(id)).toBeLessThanOrEqual(model.lastLsn)
  }

  lease(back: number): void {
    const lsn = this.#placeBack(back)
    for (const timeline of this.#timelines(this.#current)) timeline.retention.lease(lsn)
    this.#now.leases.push(lsn)
  }

  /** Local files that are in object storage go. */
  async evict(seed: number): Promise<void> {
    const next = random(seed)
    for (const [id] of this.#open()) {
      for (const timeline of this.#timelines(id)) {
        for (const layer of timeline.layers.newestFirst) {
          if (next(3) > 0 && !layer.isOnlyCopy) await layer.evict()
        }
      }
    }
  }

  /** Siblings that left the ancestor no later become children of the detached timeline. */
  async detach(): Promise<void> {
    const { parent, branchLsn } = this.#now
    if (parent === null) return
    const from = { ancestorTimelineId: parent, ancestorLsn: branchLsn }
    for (const { lives } of this.server.shards) await lives.detach(this.#current, from)
    for (const known of this.#known.values()) {
      if (known.parent === parent && known.branchLsn <= branchLsn) known.parent = this.#current
    }
    this.#now.parent = null
  }

  async archive(): Promise<void> {
    const id = this.#current
    if (this.#open().length === 1) return
    const children = this.#childrenOf(id).some(({ isArchived }) => !isArchived)
    await this.#allowed(!children, ({ lives }) => lives.archive(id))
    if (children) return
    this.#of(id).isArchived = true
    this.use(0)
  }

  /** One that is leased is put away and brought back, perhaps by another process. */
  async away(back: number): Promise<void> {
    if (this.#open().length === 1) await this.branch(0)
    const id = this.#current
    this.lease(back)
    this.put(40, back, true)
    await this.archive()
    if (back % 3 === 0) await this.crash('nothing', back)
    const archived = [...this.#known].filter(([, { isArchived }]) => isArchived)
    const which = archived.findIndex(([found]) => found === id)
    if (which === -1) return
    await this.unarchive(which)
    // The first collection afterwards finds what was leased before, with nobody renewing it.
    for (const timeline of this.#timelines(id)) await timeline.confirm()
    await this.collect(0, id)
    for (const lsn of this.#of(id).leases) await this.#checkAt(id, lsn)
  }

  async unarchive(which: number): Promise<void> {
    const archived = [...this.#known].filter(([, { isArchived }]) => isArchived)
    const found = archived[which % Math.max(archived.length, 1)]
    if (!found) return
    const [id, known] = found
    const isParentOpen = known.parent === null || !this.#of(known.parent).isArchived
    await this.#allowed(isParentOpen, ({ lives }) => lives.unarchive(id))
    if (!isParentOpen) return
    known.isArchived = false
    // What archiving flushed is all that was published.
    for (const timeline of this.#timelines(id)) {
      expect(timeline.lastRecordLsn).toBe(known.model.lastLsn)
    }
    this.#takeInAgain(id)
  }

  async delete(): Promise<void> {
    const id = this.#current
    if (this.#open().length === 1) return
    const children = this.#childrenOf(id).length > 0
    await this.#allowed(!children, ({ lives }) => lives.delete(id))
    if (children) return
    this.#known.delete(id)
    this.#deleted.push(id)
    this.use(0)
  }

  /**
   * Each shard becomes two. Parents may not have flushed: then the rest is read again from WAL.
   */
  async split(seed: number): Promise<void> {
    const next = random(seed)
    const count = 2 * (this.#shards?.count ?? 1)
    if (count > MAX_SHARDS) return
    for (const [id] of this.#open()) {
      for (const timeline of this.#timelines(id)) if (next(3) > 0) await timeline.flush()
    }
    const shards = { count, stripeBlocks: this.#shards?.stripeBlocks ?? 1 + next(4) }
    await this.server.split(shards, next(6))
    this.#shards = shards
    await this.#comeBack(false)
    if (next(3) > 0) return
    // What the new shards refer to stays, and is all that they need.
    await this.sweep()
    await this.crash('all', seed)
    await this.check(next(100))
  }

  /** Works off the queue of objects to delete, and what former shards have left. */
  async sweep(): Promise<void> {
    await this.server.sweepFormer()
    await this.server.deleteDoomed()
    for (const { lives } of this.server.shards) await lives.sweepDeleted()
    await this.server.deleteDoomed()
  }

  async restart(): Promise<void> {
    await this.server.restart({ clean: true })
    await this.#comeBack(true)
  }

  /**
   * Memory is lost, and of local files what the loss says. Of what was interrupted nothing or all
   * is found done; which, is returned.
   */
  async crash(loss: Loss, seed: number, interrupted?: Interrupted): Promise<boolean> {
    await this.server.crash()
    const next = random(seed)
    for (const path of loss === 'nothing' ? [] : await this.server.localFiles()) {
      if (path.endsWith('.mdb') || (loss !== 'all' && next(2) === 0)) continue
      const bytes = await readFile(path)
      // Never in place: the object may be the same file.
      await unlink(path)
      if (loss === 'zeros') await writeFile(path, Buffer.alloc(bytes.length))
      if (loss === 'cut') await writeFile(path, bytes.subarray(0, next(bytes.length)))
    }
    await this.server.restart()
    const isDone = interrupted !== undefined && this.#isDone(interrupted)
    await this.#comeBack(false)
    return isDone
  }

  /** All that replaces layers, and reads and a new branch, at the same time. */
  async together(back: number, seed: number): Promise<void> {
    const next = random(seed)
    const place = this.#placeBack(next(300))
    const mayBranch = this.#known.size < MAX_TIMELINES
    const reads = this.check(0)
    await Promise.all([
      this.flush(seed),
      this.collect(back),
      this.compact(),
      this.#each((timeline) => timeline.compaction.makeImages()),
      this.bottom(),
      reads,
    ])
    await this.check(0)
    if (!mayBranch) return
    // The cutoff may pass the place first; then there is no branch, on any shard.
    const race = await Promise.allSettled([this.collect(0), this.#branchAt(place)])
    for (const one of race) {
      if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'out_of_range' })
    }
  }

  /** All keys at the tip, so far back, and where leased. */
  async check(back: number): Promise<void> {
    for (const [id, { model, leases }] of this.#open()) {
      const first = this.#timelines(id)[0] as Timeline
      const past = Math.max(first.startLsn, model.lastLsn - back * 8)
      for (const lsn of new Set([model.lastLsn, past, ...leases])) await this.#checkAt(id, lsn)
    }
  }

  /** A few keys at a random LSN of a random timeline. */
  async sample(seed: number): Promise<void> {
    const next = random(seed)
    const open = this.#open()
    const [id, { model }] = open[next(open.length)] as [TimelineId, Known]
    const oldest = this.#oldest(id)
    const lsn = oldest + 8 * next((model.lastLsn - oldest) / 8 + 1)
    const rel = next(RELS)
    const blk = next(BLOCKS)
    await this.#checkPages(id, rel, blk, Math.min(BLOCKS - blk, 1 + next(4)), lsn)
    await this.#checkBlobs(id, lsn)
  }

  /** All keys at all retained LSNs and at some between them; what is deleted stays so. */
  async checkAll(lsns = FINAL_LSNS): Promise<void> {
    for (const [id, { model, leases }] of this.#open()) {
      const oldest = this.#oldest(id)
      const written = model.versions.map(({ lsn }) => lsn).filter((lsn) => lsn >= oldest)
      const some = Array.from({ length: lsns }, (_, index) => {
        return written[Math.floor((index * written.length) / lsns)] ?? oldest
      })
      const branchPoints = this.#childrenOf(id).map(({ branchLsn }) => branchLsn)
      const kept = branchPoints.filter((lsn) => lsn >= oldest)
      for (const lsn of new Set([oldest, model.lastLsn, ...leases, ...kept, ...some])) {
        if (lsn <= model.lastLsn) await this.#checkAt(id, lsn)
      }
    }
    for (const tenant of this.server.shards) {
      for (const id of this.#deleted) expect(() => tenant.timeline(id)).toThrow('no timeline')
      for (const [id, { isArchived }] of this.#known) {
        if (isArchived) expect(() => tenant.timeline(id)).toThrow('is archived')
      }
    }
  }

  /** Everything is brought to rest and compared: as it is, without the past, from storage alone. */
  async finish(lsns?: number): Promise<void> {
    await this.checkAll(lsns)
    for (const [id] of this.#open()) {
      this.#current = id
      await this.images()
      await this.bottom()
    }
    await this.checkAll(lsns)
    for (const [id] of this.#open()) await this.collect(0, id)
    await this.checkAll(lsns)
    for (const [id] of this.#open()) {
      this.#current = id
      await this.bottom()
    }
    await this.checkAll(lsns)
    for (const [id] of this.#open()) {
      for (const timeline of this.#timelines(id)) await timeline.compaction.rewriteOwn()
    }
    await this.sweep()
    await this.crash('all', 0)
    await this.checkAll(lsns)
    expect(this.server.errors).toEqual([])
  }

  #isDone(interrupted: Interrupted): boolean {
    const archived = [...this.#known].find(([, { isArchived }]) => isArchived)
    const id = interrupted === 'unarchive' ? (archived as [TimelineId, Known])[0] : this.#current
    const { tenant } = this.server
    const isOpen = tenant.timelines().some(({ timelineId }) => timelineId === id)
    if (isOpen !== (interrupted === 'unarchive')) return false
    expect(tenant.lives.pastOf(id)).toBe(RESULT[interrupted])
    if (interrupted === 'delete') {
      this.#known.delete(id)
      this.#deleted.push(id)
    } else this.#of(id).isArchived = interrupted === 'archive'
    if (!isOpen) this.use(0)
    return true
  }

  get #now(): Known {
    return this.#of(this.#current)
  }

  #of(id: TimelineId): Known {
    return this.#known.get(id) as Known
  }

  #open(): [TimelineId, Known][] {
    return [...this.#known].filter(([, { isArchived }]) => !isArchived)
  }

  #timelines(id: TimelineId): Timeline[] {
    return this.server.shards.map((tenant) => tenant.timeline(id))
  }

  #childrenOf(id: TimelineId): Known[] {
    return [...this.#known.values()].filter(({ parent }) => parent === id)
  }

  async #each(work: (timeline: Timeline) => Promise<unknown>): Promise<void> {
    for (const timeline of this.#timelines(this.#current)) await work(timeline)
  }

  async #allowed(isAllowed: boolean, work: (tenant: Tenant) => Promise<unknown>): Promise<void> {
    for (const tenant of this.server.shards) {
      if (isAllowed) await work(tenant)
      else await expect(work(tenant)).rejects.toMatchObject({ code: 'conflict' })
    }
  }

  async #bootstrap(startLsn: Lsn): Promise<void> {
    const id = newTimelineId()
    const model = new HistoryModel(null, startLsn)
    for (let rel = 0; rel < RELS; rel++) {
      for (let blk = 0; blk < BLOCKS; blk++) {
        const value = Buffer.alloc(PAGE_SIZE, rel * 16 + blk)
        const key = { cls: KeyClass.RelBlock, rel, blk }
        model.put({ key, lsn: startLsn, kind: ValueKind.Image, value })
      }
      model.put({ lsn: startLsn, ...sizeOf(rel, BLOCKS) })
    }
    const facts = { startLsn: startLsn, systemId: '42', pgVersion: 170011 }
    for (const tenant of this.server.shards) {
      await tenant.createTimeline(id, facts, async (timeline) => {
        for (const version of model.versions) putInto(timeline, version)
        putToyCheckpoint(timeline, startLsn, timestampNow())
      })
    }
    this.#known.set(id, {
      model,
      parent: null,
      branchLsn: startLsn,
      checkpoints: [],
      leases: [],
      isArchived: false,
    })
    this.#current = id
  }

  async #branchAt(lsn: number): Promise<void> {
    const parent = this.#current
    const id = newTimelineId()
    const place = { ancestorTimelineId: parent, ancestorLsn: lsn }
    for (const [shard, tenant] of this.server.shards.entries()) {
      try {
        await tenant.branchTimeline(id, place)
      } catch (error) {
        // Taken back, as the control plane does it.
        for (const other of this.server.shards.slice(0, shard)) await other.lives.delete(id)
        throw error
      }
    }
    this.#known.set(id, {
      model: new HistoryModel(this.#of(parent).model, lsn),
      parent,
      branchLsn: lsn,
      checkpoints: [],
      leases: [],
      isArchived: false,
    })
    this.#current = id
  }

  /** A state is readable when all shards have it; shard 0 is ahead of the others. */
  #cutoff(id: TimelineId): number {
    return Math.max(...this.#timelines(id).map((timeline) => timeline.gcCutoffLsn ?? 0))
  }

  #oldest(id: TimelineId): number {
    return Math.max((this.#timelines(id)[0] as Timeline).startLsn, this.#cutoff(id))
  }

  /** A place so far back, or the oldest that is kept. */
  #placeBack(back: number): number {
    return Math.max(this.#oldest(this.#current), this.#now.model.lastLsn - back * 8)
  }

  /** Each timeline continues from what is durable, as WAL would be read again. */
  async #comeBack(isClean: boolean): Promise<void> {
    for (const [id, known] of this.#open()) {
      for (const timeline of this.#timelines(id)) {
        expect(timeline.lastRecordLsn).toBeLessThanOrEqual(known.model.lastLsn)
        if (isClean) expect(timeline.lastRecordLsn).toBe(known.model.lastLsn)
      }
      this.#takeInAgain(id)
      this.#leaseAgain(id)
    }
  }

  /** Nothing is collected after an attach before their holders had the time for this. */
  #leaseAgain(id: TimelineId): void {
    for (const lsn of this.#of(id).leases) {
      for (const timeline of this.#timelines(id)) timeline.retention.lease(lsn)
    }
  }

  #takeInAgain(id: TimelineId): void {
    const { model, checkpoints } = this.#of(id)
    for (const timeline of this.#timelines(id)) {
      const from = timeline.lastRecordLsn
      const ends = checkpoints.filter((lsn) => lsn > from)
      for (const version of model.versions) {
        if (version.lsn <= from) continue
        while ((ends[0] ?? version.lsn) < version.lsn) {
          putToyCheckpoint(timeline, ends.shift() as number, timestampNow())
        }
        putInto(timeline, version)
      }
      // What follows the last of these was not published.
      if (ends[0] === model.lastLsn && model.versions.at(-1)?.lsn === ends[0]) {
        putToyCheckpoint(timeline, ends[0], timestampNow())
      }
      timeline.publish(model.lastLsn)
    }
  }

  async #checkAt(id: TimelineId, lsn: number): Promise<void> {
    const [first] = this.#timelines(id) as [Timeline]
    if (lsn < this.#cutoff(id) && !this.#of(id).leases.includes(lsn)) {
      await expect(first.scanBlobs(KeyClass.RelSize, lsn)).rejects.toThrow('is gone')
      return
    }
    for (let rel = 0; rel < RELS; rel++) await this.#checkPages(id, rel, 0, BLOCKS + 1, lsn)
    await this.#checkBlobs(id, lsn)
  }

  /** Each run of blocks is asked of the shard that has it. */
  async #checkPages(
    id: TimelineId,
    rel: number,
    first: number,
    count: number,
    lsn: number,
  ): Promise<void> {
    const timelines = this.#timelines(id)
    const { model } = this.#of(id)
    const step = this.#shards?.stripeBlocks ?? count
    const offset = firstBlock(rel)
    const blocks = blocksAt(model, rel, lsn) ?? 0
    for (let blk = first; blk < first + count; ) {
      const stripeEnd = (Math.floor((offset + blk) / step) + 1) * step - offset
      const end = Math.min(first + count, this.#shards === null ? blk + step : stripeEnd)
      const owner = this.#shards === null ? 0 : shardOfBlock(rel, offset + blk, this.#shards)
      const timeline = timelines[owner] as Timeline
      const slot = timeline.slot(KeyClass.RelBlock, 0, 0, rel, 0)
      const pages = await timeline.readPages(slot, offset + blk, end - blk, lsn)
      for (let at = blk; at < end; at++) {
        // What a relation has lost is asked for by nobody.
        if (at >= blocks && at < BLOCKS) continue
        const expected = model.page({ cls: KeyClass.RelBlock, rel, blk: at }, lsn)
        const found = pages.subarray((at - blk) * PAGE_SIZE, (at - blk + 1) * PAGE_SIZE)
        const where = `rel ${rel} blk ${at} at ${lsn} of shard ${owner}`
        expect(found.equals(expected), where).toBe(true)
      }
      blk = end
    }
  }

  async #checkBlobs(id: TimelineId, lsn: number): Promise<void> {
    const { model } = this.#of(id)
    for (const [shard, timeline] of this.#timelines(id).entries()) {
      for (const cls of [KeyClass.AuxFile, KeyClass.TwoPhase, KeyClass.RelSize]) {
        const isHere = shard === 0 || cls === KeyClass.RelSize
        const scanned = await timeline.scanBlobs(cls, lsn)
        const expected = Array.from({ length: isHere ? RELS : 0 }, (_, rel) => ({
          rel,
          value: model.blob({ cls, rel, blk: 0 }, lsn),
        })).filter(({ value }) => value !== null)
        expect(scanned.map(({ rel, value }) => ({ rel, value: Buffer.from(value) }))).toEqual(
          expected,
        )
      }
    }
  }
}

function putInto(timeline: Timeline, { key, lsn, kind, value }: ModelVersion): void {
  const slot = timeline.slot(key.cls, 0, 0, key.rel, 0)
  const padded = Buffer.concat([Buffer.from('..'), value, Buffer.from('..')])
  const blk = key.cls === KeyClass.RelBlock ? firstBlock(key.rel) + key.blk : key.blk
  timeline.put(slot, blk, lsn, kind, padded, 2, value.length)
}
