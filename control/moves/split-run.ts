/** Performs what `split.ts` decides for one tenant, until there is nothing left to do. */
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { errorMessage } from '#libs/errors.ts'
import type { TenantId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { tenantShardId } from '#libs/sharding.ts'
import type { PlacementRecord, TenantRecord } from '../records.ts'
import { addressOf, type Registry } from '../registry.ts'
import { pageserverApi } from '../remote.ts'
import type { Positions } from './move.ts'
import { positionsIn, sourcesOf, tellComputes } from './move-run.ts'
import { Split, type SplitAnswer, type SplitEffect, splitStateOf } from './split.ts'
import { parentOf, type SplitState, withSplitState } from './split-changes.ts'

const POLL_MS = 100
const RETRY_MS = 500

export class SplitRun {
  readonly tenantId: string
  readonly #registry: Registry
  readonly #log: Logger
  readonly #stopping = new AbortController()
  #machine: Split | null = null

  constructor(options: { tenantId: string; registry: Registry; log: Logger }) {
    this.tenantId = options.tenantId
    this.#registry = options.registry
    this.#log = options.log.child({ tenantId: this.tenantId })
  }

  /** What keeps it from going on, while something does. */
  get problem(): string | null {
    return this.#machine?.problem ?? null
  }

  /** The process ends: the split goes on after the next start. */
  stop(): void {
    this.#stopping.abort()
  }

  /** Resolves when the tenant is not being split any more, or after `stop`. */
  async run(): Promise<void> {
    let known: SplitState | null = null
    let lastProblem: string | null = null
    let machine: Split | null = null
    while (!this.#stopping.signal.aborted) {
      // Somebody else may have changed it: a pageserver that restarted, or was lost.
      const tenant = (await this.#registry.findTenant(this.tenantId))?.value
      if (tenant === undefined) return
      const state = splitStateOf(tenant)
      if (machine === null || !isDeepStrictEqual(state, known)) {
        machine = new Split(state, Date.now())
        this.#machine = machine
        known = state
        this.#log.info({ split: state.split }, `split: ${state.split?.phase ?? 'done'}`)
      }
      const effect = machine.next(Date.now())
      if (effect === null) return
      const answer = await this.#answer(effect, tenant)
      machine.answered(effect, answer, Date.now())
      if (machine.problem !== null && machine.problem !== lastProblem) {
        this.#log.warn({ effect: effect.kind, reason: machine.problem }, 'a split must wait')
      }
      lastProblem = machine.problem
      await this.#pause(effect, machine.problem)
    }
  }

  async #pause(effect: SplitEffect, problem: string | null): Promise<void> {
    const isPoll = effect.kind === 'attach' || effect.kind === 'wait'
    const pauseMs = problem !== null ? RETRY_MS : isPoll ? POLL_MS : 0
    const { signal } = this.#stopping
    if (pauseMs > 0) await sleep(pauseMs, undefined, { signal }).catch(() => undefined)
  }

  async #answer(effect: SplitEffect, tenant: TenantRecord): Promise<SplitAnswer> {
    try {
      return await this.#perform(effect, tenant)
    } catch (error) {
      return { kind: 'failed', reason: errorMessage(error) }
    }
  }

  async #perform(effect: SplitEffect, tenant: TenantRecord): Promise<SplitAnswer> {
    const { split, placements } = tenant
    switch (effect.kind) {
      case 'wait':
        return { kind: 'done' }
      case 'swap':
        return this.#swap(effect.expected, effect.next)
      case 'tell':
        await tellComputes(this.#registry, this.tenantId)
        return { kind: 'done' }
      case 'hold': {
        const parents = placements.filter(({ shard }) => effect.shards.includes(shard))
        return each(parents, async ({ shard, pageserverId, generation }) => {
          const node = await this.#node(pageserverId)
          const { id, stripes } = this.#held(shard, tenant.shardCount, tenant.stripeBlocks)
          // Most of it before the tenant stops writing, so that stopping is short.
          await pageserverApi.flushTenant(node, id)
          await pageserverApi.setLocation(node, id, { mode: 'stale', generation, ...stripes })
          return NOWHERE
        })
      }
      case 'attach': {
        return each(placements, async ({ shard, pageserverId, generation }) => {
          const { id, stripes } = this.#held(shard, tenant.shardCount, tenant.stripeBlocks)
          const timelines = await sourcesOf(this.#registry, id)
          const splitFrom = parentOf(tenant, shard)
          return positionsIn(
            await pageserverApi.setLocation(await this.#node(pageserverId), id, {
              mode: 'attached',
              generation,
              timelines,
              ...stripes,
              ...(splitFrom === null ? {} : { splitFrom }),
            }),
          )
        })
      }
      case 'measure':
      case 'release': {
        const parents = (split?.parents ?? []).filter(({ shard }) => effect.shards.includes(shard))
        const count = split?.parentCount ?? 0
        return each(parents, async ({ shard, pageserverId, secondary }) => {
          const { id } = this.#held(shard, count, tenant.stripeBlocks)
          const node = await this.#node(pageserverId)
          if (effect.kind === 'measure') {
            return positionsIn(await pageserverApi.getLocation(node, id))
          }
          await pageserverApi.setLocation(node, id, { mode: 'detached' })
          if (secondary !== null) {
            await pageserverApi.setLocation(await this.#node(secondary), id, { mode: 'detached' })
          }
          return NOWHERE
        })
      }
    }
  }

  async #swap(expected: SplitState, next: SplitState): Promise<SplitAnswer> {
    const stored = await this.#registry.changeTenant(this.tenantId, (current) =>
      isDeepStrictEqual(splitStateOf(current), expected) ? withSplitState(current, next) : current,
    )
    return { kind: 'record', state: splitStateOf(stored) }
  }

  /** What a pageserver calls a shard of the tenant. */
  #held(
    shard: number,
    count: number,
    stripeBlocks: number,
  ): { id: TenantId; stripes: { stripeBlocks?: number } } {
    const id = tenantShardId(this.tenantId, shard, count)
    return { id, stripes: count === 0 ? {} : { stripeBlocks } }
  }

  async #node(id: number) {
    return addressOf(await this.#registry.node('pageserver', id))
  }
}

const NOWHERE: Positions = new Map()

/** Asks for all of them at once; what some answer counts, whatever the others do. */
async function each(
  placements: readonly PlacementRecord[],
  ask: (placement: PlacementRecord) => Promise<Positions>,
): Promise<SplitAnswer> {
  const results = await Promise.allSettled(placements.map(ask))
  const done = new Map<number, Positions>()
  let reason: string | null = null
  for (const [at, result] of results.entries()) {
    if (result.status === 'rejected') reason = errorMessage(result.reason)
    else done.set((placements[at] as PlacementRecord).shard, result.value)
  }
  return { kind: 'shards', done, reason }
}
