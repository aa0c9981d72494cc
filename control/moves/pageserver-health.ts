/**
 * Asks every pageserver how it is. One that has been silent for long is taken for lost: others take
 * over what it has, warm copies first; when it is well again its tenants go back to it.
 *
 * Being wrong costs a move and nothing else: the one that was taken for lost has a lower generation,
 * and whatever it still does counts for nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import type { NodeRecord, PlacementRecord } from '../records.ts'
import type { Registry } from '../registry.ts'
import { pageserverApi } from '../remote.ts'
import type { Moves } from './moves.ts'
import { chooseHeir, loadOf } from './placing.ts'

const PAUSE_MS = 1_000

export interface PageserverHealthOptions {
  registry: Registry
  moves: Moves
  log: Logger
  /** A pageserver that is silent for so long is lost; null: only when somebody says so. */
  lostAfterMs: number | null
  /** One that was lost must have been well for so long before its tenants go back. */
  homeAfterMs: number
}

export class PageserverHealth {
  readonly #options: PageserverHealthOptions
  /** When each one was heard last, and since when it answers without a break. */
  readonly #heardMs = new Map<number, number>()
  readonly #wellSinceMs = new Map<number, number>()
  /** Why nobody takes over from a lost one. */
  readonly #problems = new Map<number, string>()
  readonly #stop = new AbortController()
  readonly #startedMs = performance.now()
  #running: Promise<void> | null = null

  constructor(options: PageserverHealthOptions) {
    this.#options = options
  }

  /** Begins to ask, in the background. */
  start(): void {
    this.#running ??= this.#run()
  }

  /** Ends the asking; an answer that is awaited holds it up only for a moment. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.race([this.#running, sleep(200)])
  }

  /** Milliseconds since it was heard; 0 while it answers. Before the first answer: since our start. */
  silentMs(id: number): number {
    if (this.#wellSinceMs.has(id)) return 0
    return performance.now() - (this.#heardMs.get(id) ?? this.#startedMs)
  }

  /** True when it has answered the last time it was asked. */
  answers(id: number): boolean {
    return this.#wellSinceMs.has(id)
  }

  /** Others take over all that it has. Throws `unavailable` when there is nobody to take it. */
  async evacuate(lost: number): Promise<void> {
    const { registry, moves } = this.#options
    for (const tenant of await registry.tenants()) {
      for (const placement of tenant.placements) {
        // Nothing has been handed over to it yet: the tenant stays where it is.
        if (placement.move?.to === lost && isUndoable(placement)) {
          await moves.abort(tenant.tenantId, placement.shard)
        }
        if (placement.pageserverId !== lost || isTaken(placement, lost)) continue
        const heir = chooseHeir(placement, await this.#candidates(lost), await loadOf(registry))
        await moves.takeOver(tenant.tenantId, placement.shard, lost, heir)
      }
    }
  }

  /** Pageservers that may take tenants, and answer. */
  async #candidates(lost: number): Promise<NodeRecord[]> {
    const nodes = await this.#options.registry.nodes('pageserver')
    return nodes.filter(({ id, state }) => id !== lost && state === undefined && this.answers(id))
  }

  async #run(): Promise<void> {
    const { log } = this.#options
    while (!this.#stop.signal.aborted) {
      await this.#tick().catch((error: unknown) =>
        log.warn({ reason: errorMessage(error) }, 'the watch over pageservers must wait'),
      )
      await sleep(PAUSE_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined)
    }
  }

  async #tick(): Promise<void> {
    const { registry, lostAfterMs, log } = this.#options
    const nodes = await registry.nodes('pageserver')
    const asked = await Promise.allSettled(nodes.map((node) => this.#ask(node)))
    for (const result of asked) {
      if (result.status === 'fulfilled') continue
      log.warn({ reason: errorMessage(result.reason) }, 'a pageserver is not well yet')
    }
    for (const { id } of nodes) {
      if (lostAfterMs === null || this.silentMs(id) < lostAfterMs) continue
      await this.evacuate(id).then(
        () => this.#problems.delete(id),
        (error: unknown) => this.#note(id, errorMessage(error)),
      )
    }
    await this.#sendHome()
  }

  async #ask(node: NodeInfo): Promise<void> {
    const nowMs = performance.now()
    const health = await pageserverApi.health(node)
    // One that loads what it has is not ready, and not lost either.
    if (health !== 'silent') this.#heardMs.set(node.id, nowMs)
    if (health !== 'ready') {
      this.#wellSinceMs.delete(node.id)
      return
    }
    if (this.#wellSinceMs.has(node.id)) return
    // Tried again at the next look when it fails.
    await this.#options.moves.reconcile(node)
    this.#wellSinceMs.set(node.id, nowMs)
  }

  /** Once, and not at every look. */
  #note(id: number, reason: string): void {
    if (this.#problems.get(id) === reason) return
    this.#problems.set(id, reason)
    this.#options.log.error({ pageserver: id, reason }, 'a pageserver is lost, nobody takes over')
  }

  async #sendHome(): Promise<void> {
    const { registry, moves, log, homeAfterMs } = this.#options
    for (const { tenantId, placements, split } of await registry.tenants()) {
      if (split !== undefined) continue
      for (const { shard, home, move, pageserverId } of placements) {
        if (home === undefined || move !== undefined || home === pageserverId) continue
        const sinceMs = this.#wellSinceMs.get(home)
        if (sinceMs === undefined || performance.now() - sinceMs < homeAfterMs) continue
        log.info({ tenantId, shard, home }, 'a tenant goes back')
        await moves.begin(tenantId, shard, home)
      }
    }
  }
}

function isUndoable({ move }: PlacementRecord): boolean {
  return move?.phase === 'warm-up' || move?.phase === 'hold'
}

/** A take-over from it is under way already. */
function isTaken({ move }: PlacementRecord, lost: number): boolean {
  return move?.lost === true && move.from === lost
}
