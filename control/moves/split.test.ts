/**
 * A model of pageservers, object storage, WAL and a compute, in which the machine is run with
 * everything going wrong (`testing/model-fleet.ts`): pageservers that restart, die, are taken over
 * from, and come back as they were.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { AttachMode } from '#libs/api/attach-mode.ts'
import type { TenantId } from '#libs/ids.ts'
import { tenantShardId } from '#libs/sharding.ts'
import type { PlacementRecord, TenantRecord } from '../records.ts'
import { withPlacement } from '../tenant-record.ts'
import { PATIENCE_MS, type Positions } from './move.ts'
import { finishMove, takeOver } from './placement-changes.ts'
import { Split, type SplitAnswer, type SplitEffect, splitStateOf } from './split.ts'
import {
  beginSplit,
  finishSplit,
  handOverSplit,
  holdingUnder,
  parentOf,
  shardsOf,
  splitTakesWrites,
  withSplitState,
} from './split-changes.ts'
import {
  type Holder,
  ModelFleet,
  NODES,
  NOW,
  nodeCommands,
  stepCommands,
  TIMELINE,
} from './testing/model-fleet.ts'

const TENANT = 'a'.repeat(32)
const SPOILS = ['no-tell', 'release-first', 'no-parent', 'parent-lets-go'] as const
type Spoil = (typeof SPOILS)[number] | null

interface Server {
  up: boolean
  readonly held: Map<TenantId, Holder>
}

/** The map that the compute has: nodes in the order of the shards. */
interface ComputeMap {
  count: number
  nodes: number[]
}

const first = (shards: number): TenantRecord => ({
  tenantId: TENANT,
  state: 'active',
  shardCount: shards > 1 ? shards : 0,
  stripeBlocks: 2048,
  placements: Array.from({ length: shards }, (_, shard) => ({
    shard,
    pageserverId: NODES[shard % NODES.length] as number,
    generation: 1,
    secondary: null,
  })),
  mainTimelineId: TIMELINE,
  createdAt: NOW.toISOString(),
})

class World extends ModelFleet<SplitEffect, SplitAnswer> {
  tenant: TenantRecord
  readonly servers = new Map<number, Server>(NODES.map((id) => [id, { up: true, held: new Map() }]))
  /** What is durable of each shard, whoever wrote it. */
  readonly stored = new Map<TenantId, number>()
  /** WAL below is gone. */
  releasedLsn = 100
  compute: ComputeMap
  readonly spoil: Spoil

  constructor(spoil: Spoil, shards: number) {
    super()
    this.spoil = spoil
    this.tenant = first(shards)
    this.compute = this.#servingMap()
    for (const { shard, pageserverId, generation } of this.tenant.placements) {
      const id = tenantShardId(TENANT, shard, this.tenant.shardCount)
      this.stored.set(id, 100)
      this.#attach(pageserverId, id, 'attached', generation)
    }
  }

  server(id: number): Server {
    return this.servers.get(id) as Server
  }

  protected record(): TenantRecord {
    return this.tenant
  }

  protected makeMachine(nowMs: number): Split {
    return new Split(splitStateOf(this.tenant), nowMs)
  }

  protected isUp(node: number): boolean {
    return this.server(node).up
  }

  /** WAL comes, is taken in, stored and let go. */
  work(): void {
    this.walLsn += 10
    for (const { up, held } of this.servers.values()) {
      if (!up) continue
      for (const [id, holder] of held) {
        holder.lsn = this.walLsn
        if (holder.mode === 'stale') continue
        this.stored.set(id, Math.max(this.stored.get(id) ?? 0, holder.lsn))
      }
    }
    this.#release()
    this.check()
  }

  restart(node: number): void {
    const server = this.server(node)
    server.up = true
    server.held.clear()
    for (const { shard } of this.tenant.placements) {
      this.tenant = withPlacement(this.tenant, shard, (placement) =>
        placement.pageserverId === node
          ? { ...placement, generation: placement.generation + 1 }
          : placement,
      )
    }
    for (const { id } of shardsOf(this.tenant)) {
      const holding = holdingUnder(this.tenant, id, node)
      if (holding?.kind === 'attach') this.#attach(node, id, holding.mode, holding.generation)
    }
    this.crash()
    this.check()
  }

  /** It was only silent, and is as it was: it is told what is not its own any more. */
  reconcile(node: number): void {
    const { up, held } = this.server(node)
    if (!up) return
    for (const id of held.keys()) {
      if (holdingUnder(this.tenant, id, node) === null) held.delete(id)
    }
  }

  /** It dies, and another one takes over all of its placements. */
  lose(node: number): void {
    const heir = NODES.find((id) => id !== node && this.server(id).up)
    if (heir === undefined) return
    const server = this.server(node)
    server.up = false
    server.held.clear()
    for (const { shard } of this.tenant.placements) {
      this.tenant = withPlacement(this.tenant, shard, (placement) =>
        placement.pageserverId === node && placement.move === undefined
          ? takeOver(placement, heir, NOW)
          : placement,
      )
    }
    this.crash()
  }

  /** What moves.ts does meanwhile, in one go. */
  protected override beforeStep(): void {
    for (const { shard, move, pageserverId, generation } of this.tenant.placements) {
      if (move === undefined || !this.server(pageserverId).up) continue
      const id = tenantShardId(TENANT, shard, this.tenant.shardCount)
      this.#attach(pageserverId, id, 'attached', generation, parentOf(this.tenant, shard)?.tenantId)
      this.tenant = withPlacement(this.tenant, shard, finishMove)
      this.compute = this.#servingMap()
      this.crash()
    }
  }

  /** WAL goes when all shards have it, by the word of those whose generation is the newest. */
  #release(): void {
    const { placements, shardCount } = this.tenant
    const lsns = placements.map(({ shard, pageserverId, generation }) => {
      const id = tenantShardId(TENANT, shard, shardCount)
      const holder = this.server(pageserverId).held.get(id)
      return holder?.generation === generation ? (this.stored.get(id) ?? 0) : 0
    })
    if (this.spoil === 'parent-lets-go') {
      // As if nobody asked whether a parent's generation still counts.
      const parents = this.tenant.split?.parents ?? []
      for (const { shard, pageserverId } of parents) {
        const id = tenantShardId(TENANT, shard, this.tenant.split?.parentCount ?? 0)
        const holder = this.server(pageserverId).held.get(id)
        if (holder) this.releasedLsn = Math.max(this.releasedLsn, holder.lsn)
      }
    }
    this.releasedLsn = Math.max(this.releasedLsn, Math.min(...lsns))
  }

  protected perform(effect: SplitEffect): SplitAnswer {
    const { tenant } = this
    const { split } = tenant
    switch (effect.kind) {
      case 'wait':
        return { kind: 'done' }
      case 'swap': {
        const isSame = JSON.stringify(splitStateOf(tenant)) === JSON.stringify(effect.expected)
        if (isSame) this.tenant = this.#spoiled(withSplitState(tenant, effect.next))
        return { kind: 'record', state: splitStateOf(this.tenant) }
      }
      case 'tell':
        if (this.spoil !== 'no-tell') this.compute = this.#servingMap()
        return { kind: 'done' }
      case 'hold':
        return this.#each(tenant.placements, effect.shards, ({ shard, pageserverId }) => {
          const id = tenantShardId(TENANT, shard, tenant.shardCount)
          const holder = this.#reach(pageserverId, id)
          if (holder.mode !== 'stale') this.stored.set(id, holder.lsn)
          holder.mode = 'stale'
          return new Map()
        })
      case 'attach': {
        const all = tenant.placements.map(({ shard }) => shard)
        return this.#each(tenant.placements, all, ({ shard, pageserverId, generation }) => {
          const id = tenantShardId(TENANT, shard, tenant.shardCount)
          const parent = this.spoil === 'no-parent' ? undefined : parentOf(tenant, shard)?.tenantId
          if (!this.server(pageserverId).up) throw new Error('down')
          const known = this.server(pageserverId).held.get(id)
          if (known && known.generation > generation) throw new Error('fenced')
          const holder = this.#attach(pageserverId, id, 'attached', generation, parent)
          holder.lsn = Math.min(this.walLsn, holder.lsn + 5)
          return new Map([[TIMELINE, holder.lsn]])
        })
      }
      case 'measure':
      case 'release':
        return this.#each(split?.parents ?? [], effect.shards, ({ shard, pageserverId }) => {
          const id = tenantShardId(TENANT, shard, split?.parentCount ?? 0)
          if (effect.kind === 'measure') {
            return new Map([[TIMELINE, this.#reach(pageserverId, id).lsn]])
          }
          if (!this.server(pageserverId).up) throw new Error('down')
          this.server(pageserverId).held.delete(id)
          return new Map()
        })
    }
  }

  #each<P extends { shard: number }>(
    placements: readonly P[],
    shards: readonly number[],
    ask: (placement: P) => Positions,
  ): SplitAnswer {
    const done = new Map<number, Positions>()
    let reason: string | null = null
    for (const placement of placements) {
      if (!shards.includes(placement.shard)) continue
      try {
        done.set(placement.shard, ask(placement))
      } catch (error) {
        reason = (error as Error).message
        if (reason !== 'down' && reason !== 'fenced') throw error
      }
    }
    return { kind: 'shards', done, reason }
  }

  #reach(node: number, id: TenantId): Holder {
    const server = this.server(node)
    const holder = server.up ? server.held.get(id) : undefined
    if (holder === undefined) throw new Error('down')
    return holder
  }

  #spoiled(next: TenantRecord): TenantRecord {
    const { split } = next
    if (this.spoil !== 'release-first' || split?.phase !== 'tell') return next
    return { ...next, split: { ...split, phase: 'clean-up' } }
  }

  #attach(
    node: number,
    id: TenantId,
    mode: AttachMode,
    generation: number,
    parent?: TenantId,
  ): Holder {
    this.claim(`${id}/${generation}`, node)
    const { held } = this.server(node)
    const known = held.get(id)
    if (known?.generation === generation) {
      known.mode = mode
      return known
    }
    if (!this.stored.has(id) && parent !== undefined) {
      this.stored.set(id, this.stored.get(parent) as number)
    }
    const lsn = this.stored.get(id)
    expect(lsn, `${id} is attached with what its parent had`).toBeDefined()
    const holder = { mode, generation, lsn: lsn as number }
    if (mode !== 'stale') {
      expect(holder.lsn, 'the WAL that it needs is there').toBeGreaterThanOrEqual(this.releasedLsn)
    }
    held.set(id, holder)
    return holder
  }

  #servingMap(): ComputeMap {
    const { split, placements, shardCount } = this.tenant
    const isAttaching = split?.phase === 'attach'
    const at = isAttaching ? split.parents : placements
    return {
      count: isAttaching ? split.parentCount : shardCount,
      nodes: at.map(({ pageserverId }) => pageserverId),
    }
  }

  check(): void {
    const { tenant } = this
    for (const [id, lsn] of this.stored) {
      const isCurrent = shardsOf({ ...tenant, split: undefined } as never).some(
        (one) => one.id === id,
      )
      if (isCurrent) expect(lsn, `WAL above ${id}`).toBeGreaterThanOrEqual(this.releasedLsn)
    }
    const { count, nodes } = this.compute
    const lost = tenant.split?.lost ?? []
    // Where another one takes over from a pageserver that was lost, reads wait for that.
    if (tenant.placements.some(({ move }) => move !== undefined)) return
    for (const [shard, node] of nodes.entries()) {
      const isParent = count === tenant.split?.parentCount && count !== tenant.shardCount
      if (!this.server(node).up || (isParent && lost.includes(shard))) continue
      const holder = this.server(node).held.get(tenantShardId(TENANT, shard, count))
      // A pageserver that is there, and that the compute reads from, has the shard.
      expect(holder, `shard ${shard} of ${count} can be read`).toBeDefined()
    }
  }

  override settle(): void {
    super.settle()
    for (const id of NODES) this.reconcile(id)
  }

  protected override beforeSettling(): void {
    this.beforeStep()
    this.#remap()
  }

  protected override isUnderWay(): boolean {
    return this.tenant.split !== undefined
  }

  /** Computes that ask in vain look where the tenant is by now. */
  #remap(): void {
    const { count, nodes } = this.compute
    const isGone = nodes.some(
      (node, shard) => !this.server(node).held.has(tenantShardId(TENANT, shard, count)),
    )
    if (isGone) this.compute = this.#servingMap()
  }

  restartAndRemap(node: number): void {
    const { count, nodes } = this.compute
    const hadAll = nodes.every((one) => this.server(one).up)
    const before = this.compute
    // A pageserver that starts again is asked in vain for a moment.
    this.compute = { count, nodes: [] }
    this.restart(node)
    this.compute = before
    if (!hadAll) this.#remap()
    this.#remap()
  }
}

const command = fc.oneof(
  ...stepCommands(14),
  { weight: 4, arbitrary: fc.constant({ kind: 'work' as const }) },
  nodeCommands,
)
type Command = typeof command extends fc.Arbitrary<infer T> ? T : never

function run(commands: readonly Command[], spoil: Spoil, shards: number, to: number): World {
  const world = new World(spoil, shards)
  world.tenant = beginSplit(world.tenant, { shards: to }, NOW)
  for (const one of commands) {
    if (one.kind === 'step') world.step({ lose: one.lose })
    else if (one.kind === 'crash') world.crash()
    else if (one.kind === 'work') world.work()
    else if (one.kind === 'restart') world.restartAndRemap(one.node)
    else world.lose(one.node)
  }
  world.settle()
  return world
}

const commands = fc.array(command, { minLength: 5, maxLength: 60 })
const sizes = fc.constantFrom([1, 2] as const, [1, 4] as const, [2, 4] as const, [2, 6] as const)

describe('a split', () => {
  it('goes through its phases, and the parents are gone in the end', () => {
    const world = new World(null, 2)
    world.tenant = beginSplit(world.tenant, { shards: 4 }, NOW)
    const phases = new Set<string>()
    while (world.step()) phases.add(world.tenant.split?.phase ?? 'done')
    expect([...phases]).toEqual(['hold', 'attach', 'tell', 'clean-up', 'done'])
    expect(world.tenant).toMatchObject({ shardCount: 4, formerCounts: [2] })
    expect(world.tenant.placements.map(({ generation }) => generation)).toEqual([2, 2, 2, 2])
    expect(world.tenant.placements.map(({ pageserverId }) => pageserverId)).toEqual([1, 2, 1, 2])
    expect(world.compute).toEqual({ count: 4, nodes: [1, 2, 1, 2] })
    for (const node of [1, 2]) {
      const held = [...world.server(node).held.keys()]
      expect(held.every((id) => id.endsWith('04'))).toBe(true)
    }
  })

  it('ends well whatever happens on the way', () => {
    fc.assert(
      fc.property(commands, sizes, (some, [from, to]) => {
        const world = run(some, null, from, to)
        const { tenant, compute } = world
        expect(tenant.split).toBeUndefined()
        expect(tenant).toMatchObject({
          shardCount: to,
          formerCounts: [from === 1 ? 0 : from],
          // Whoever comes next knows that they have yet to be spread.
          spread: true,
          lastSplit: { from, to, bySize: false },
        })
        expect(compute.count).toBe(to)
        for (const { shard, pageserverId, generation } of tenant.placements) {
          const holder = world.server(pageserverId).held.get(tenantShardId(TENANT, shard, to))
          expect(holder).toMatchObject({ mode: 'attached', generation })
        }
        const held = [...world.servers.values()].flatMap((server) => [...server.held.keys()])
        expect(held).toHaveLength(to)
      }),
      { numRuns: 1_000 },
    )
  })

  it.each(SPOILS)('would be caught by this model with the fault %s', (spoil) => {
    const property = fc.property(commands, sizes, (some, [from, to]) => {
      run(some, spoil, from, to)
    })
    expect(() => fc.assert(property, { numRuns: 500, endOnFailure: true })).toThrow()
  })

  it('goes on without a parent that does not answer for long', () => {
    const world = new World(null, 1)
    world.tenant = beginSplit(world.tenant, { shards: 2 }, NOW)
    world.server(1).up = false
    let steps = 0
    for (; world.tenant.split?.phase === 'hold'; steps++) world.step()
    expect(steps).toBeGreaterThanOrEqual(PATIENCE_MS / 1_000)
    expect(world.tenant.split).toMatchObject({ phase: 'attach', lost: [0] })
  })
})

describe('a tenant', () => {
  const whole = first(1)

  it('is split into multiples only, joins the split under way, and refuses another', () => {
    expect(() => beginSplit(first(2), { shards: 3 }, NOW)).toThrow('cannot be split into 3')
    expect(() => beginSplit(first(4), { shards: 2 }, NOW)).toThrow('cannot be split into 2')
    expect(() => beginSplit(whole, { shards: 128 }, NOW)).toThrow('cannot be split')
    expect(beginSplit(whole, { shards: 1 }, NOW)).toBe(whole)
    const begun = beginSplit(whole, { shards: 4 }, NOW)
    expect(beginSplit(begun, { shards: 4 }, NOW)).toBe(begun)
    expect(() => beginSplit(begun, { shards: 2 }, NOW)).toThrow('just being split into 4')
    expect(() => beginSplit({ ...whole, state: 'creating' }, { shards: 2 }, NOW)).toThrow()
  })

  it('keeps the size of its stripes, which at first is a multiple of the default', () => {
    const begin = (tenant: TenantRecord, stripeBlocks?: number) =>
      beginSplit(tenant, { shards: 4, stripeBlocks }, NOW).split?.stripeBlocks
    expect(begin(whole)).toBe(2048)
    expect(begin(whole, 4096)).toBe(4096)
    expect(() => begin(whole, 1000)).toThrow('multiples of 2048')
    expect(begin({ ...whole, stripeBlocks: 8 })).toBe(2048)
    expect(begin({ ...first(2), stripeBlocks: 8 })).toBe(8)
    expect(() => begin(first(2), 4096)).toThrow('for good')
  })

  it('keeps warm copies where it had them, but not where it is by then', () => {
    const warm = first(2)
    warm.placements = warm.placements.map((one) => ({ ...one, secondary: one.shard === 0 ? 3 : 1 }))
    const begun = splitStateOf(beginSplit(warm, { shards: 4 }, NOW))
    const given = handOverSplit(begun, [])
    // Nobody copies from a shard that is not there yet.
    expect(given.placements.map(({ secondary }) => secondary)).toEqual([null, null, null, null])
    given.placements[1] = { ...(given.placements[1] as PlacementRecord), pageserverId: 1 }
    const done = finishSplit(given)
    expect(done.placements.map(({ secondary }) => secondary)).toEqual([3, null, 3, 1])
  })

  it('takes no new timelines while it is handed over', () => {
    const begun = beginSplit(whole, { shards: 2 }, NOW)
    expect(splitTakesWrites(whole)).toBe(true)
    expect(splitTakesWrites(begun)).toBe(false)
    const given = handOverSplit(splitStateOf(begun), [])
    expect(splitTakesWrites(given)).toBe(false)
    const done = finishSplit(given)
    expect(done.split).toBeUndefined()
    expect(splitTakesWrites(done)).toBe(true)
  })
})
