/**
 * Where tenants are, and changes of that: moves begun and given up by requests, driven in the
 * background, taken up again from the records after a restart; take-overs when a pageserver is lost.
 * One run per placement.
 */
import type { TenantMoveInfo } from '#libs/api/fleet.ts'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { parseTenantShardId, tenantShardId, wholeTenant } from '#libs/sharding.ts'
import type { PlacementRecord, TenantRecord } from '../records.ts'
import type { Registry } from '../registry.ts'
import { pageserverApi } from '../remote.ts'
import { withPlacement } from '../tenant-record.ts'
import { MoveRun } from './move-run.ts'
import { abortMove, beginMove, takeOver } from './placement-changes.ts'
import { holdingUnder } from './split-changes.ts'

export class Moves {
  readonly #registry: Registry
  readonly #log: Logger
  readonly #runs = new Map<string, MoveRun>()
  /** Secondaries that know their primary: `tenant or shard/secondary/primary`. */
  readonly #warmed = new Set<string>()
  #stopped = false

  constructor({ registry, log }: { registry: Registry; log: Logger }) {
    this.#registry = registry
    this.#log = log
  }

  /** Every placement of every tenant, with its move. */
  async list(): Promise<TenantMoveInfo[]> {
    return (await this.#registry.tenants()).flatMap((tenant) =>
      tenant.placements.map((placement) => this.#info(tenant, placement)),
    )
  }

  /**
   * Begins to move a tenant, or one shard of it, and answers at once. The move that is under way
   * already is joined. Throws `conflict` while another is, `not_found` for an unknown pageserver.
   */
  async begin(tenantId: string, shard: number, to: number): Promise<TenantMoveInfo> {
    await this.#checkTarget(to)
    await this.#settled(tenantId)
    return this.#change(tenantId, shard, (current, { split }) => {
      if (split !== undefined) throw beingSplit(tenantId)
      return beginMove(current, to, new Date())
    })
  }

  /** Goes back, as long as the new one is not the holder. Throws `conflict` when it is too late. */
  abort(tenantId: string, shard: number): Promise<TenantMoveInfo> {
    return this.#change(tenantId, shard, abortMove)
  }

  /** Keeps a warm copy at a pageserver, or none. */
  async setSecondary(
    tenantId: string,
    shard: number,
    secondary: number | null,
  ): Promise<TenantMoveInfo> {
    if (secondary !== null) await this.#checkTarget(secondary)
    if (secondary !== null) await this.#settled(tenantId)
    let before: number | null = null
    const info = await this.#change(tenantId, shard, (current, { split }) => {
      if (split !== undefined) throw beingSplit(tenantId)
      if (current.move !== undefined) {
        throw new ZenithError('conflict', 'The tenant is just being moved.', {
          hint: 'Try again when that has ended; zenith pageserver list shows it.',
        })
      }
      if (secondary === current.pageserverId) {
        throw new ZenithError('invalid_argument', `Pageserver ${secondary} serves the tenant.`, {
          hint: 'A warm copy is of use at another one.',
        })
      }
      before = current.secondary
      return current.secondary === secondary ? current : { ...current, secondary }
    })
    if (before !== null && before !== secondary) await this.#forget(tenantId, shard, before)
    await this.#keepWarm()
    return info
  }

  /** Another pageserver takes over what a lost one has; null when there is none to take it. */
  async takeOver(
    tenantId: string,
    shard: number,
    lost: number,
    to: number,
  ): Promise<TenantMoveInfo> {
    this.#log.warn({ tenantId, shard, lost, to }, 'another pageserver takes over')
    return this.#change(tenantId, shard, (current) =>
      current.pageserverId === lost ? takeOver(current, to, new Date()) : current,
    )
  }

  /** Takes up what an earlier life left, and tells secondaries whom to copy from. */
  async resume(): Promise<void> {
    for (const { tenantId, placements } of await this.#registry.tenants()) {
      for (const { shard, move } of placements) {
        if (move !== undefined) this.#drive(tenantId, shard)
      }
    }
    await this.#keepWarm()
  }

  /**
   * A pageserver answers again that was silent: it learns what is not its own any more. What it did
   * meanwhile carries an old generation.
   */
  async reconcile(node: NodeInfo): Promise<void> {
    for (const held of await pageserverApi.tenants(node)) {
      const tenantId = parseTenantShardId(held.tenantId)
      const tenant = (await this.#registry.findTenant(wholeTenant(tenantId)))?.value
      if (tenant === undefined) {
        // One that is not known here at all is left alone: its record may just be being made.
        const deleted = await this.#registry.deletedTenant(wholeTenant(tenantId))
        if (deleted) await pageserverApi.setLocation(node, tenantId, { mode: 'detached' })
        continue
      }
      if (holdingUnder(tenant, tenantId, node.id) !== null) continue
      this.#log.info({ tenantId, pageserver: node.id }, 'a tenant is elsewhere by now')
      await pageserverApi.setLocation(node, tenantId, { mode: 'detached' })
    }
  }

  /** A pageserver has started: what it knew of its secondaries it was told anew. */
  forgetNode(id: number): void {
    for (const key of this.#warmed) {
      if (key.includes(`/${id}/`)) this.#warmed.delete(key)
    }
  }

  stop(): void {
    this.#stopped = true
    for (const run of this.#runs.values()) run.stop()
  }

  async #change(
    tenantId: string,
    shard: number,
    decide: (current: PlacementRecord, tenant: TenantRecord) => PlacementRecord,
  ): Promise<TenantMoveInfo> {
    await this.#registry.tenant(tenantId)
    const tenant = await this.#registry.changeTenant(tenantId, (current) =>
      withPlacement(current, shard, (placement) => decide(placement, current)),
    )
    const placement = tenant.placements.find((one) => one.shard === shard)
    if (placement === undefined) {
      throw new ZenithError('not_found', `Tenant ${tenantId} has no shard ${shard}.`, {
        hint: `It has ${tenant.placements.length}, from 0 on.`,
      })
    }
    if (placement.move !== undefined) this.#drive(tenantId, shard)
    return this.#info(tenant, placement)
  }

  #drive(tenantId: string, shard: number): void {
    const key = `${tenantId}/${shard}`
    if (this.#runs.has(key) || this.#stopped) return
    const run = new MoveRun({ tenantId, shard, registry: this.#registry, log: this.#log })
    this.#runs.set(key, run)
    run
      .run()
      .catch((error: unknown) =>
        this.#log.error({ err: error, tenantId, shard }, 'a move broke off; it is taken up again'),
      )
      .finally(() => this.#runs.delete(key))
  }

  async #checkTarget(to: number): Promise<void> {
    const node = (await this.#registry.nodes('pageserver')).find(({ id }) => id === to)
    if (node === undefined) {
      throw new ZenithError('not_found', `There is no pageserver ${to}.`, {
        hint: 'zenith pageserver list shows those there are.',
      })
    }
    if (node.state !== undefined) {
      throw new ZenithError('invalid_argument', `Pageserver ${to} is being emptied.`, {
        hint: 'Choose another one; zenith pageserver list shows those there are.',
      })
    }
  }

  async #settled(tenantId: string): Promise<void> {
    const { state } = await this.#registry.tenant(tenantId)
    if (state === 'active') return
    if (state === 'deleting') {
      throw new ZenithError('conflict', `Tenant ${tenantId} is being deleted.`)
    }
    throw new ZenithError('conflict', `Tenant ${tenantId} is still being created.`, {
      hint: 'Try again in a moment.',
    })
  }

  async #keepWarm(): Promise<void> {
    for (const { tenantId, shardCount, placements } of await this.#registry.tenants()) {
      for (const { shard, pageserverId, secondary, move } of placements) {
        if (secondary === null || move !== undefined) continue
        const id = tenantShardId(tenantId, shard, shardCount)
        const key = `${id}/${secondary}/${pageserverId}`
        if (this.#warmed.has(key)) continue
        const node = await this.#registry.node('pageserver', secondary)
        const { host, pgPort, httpPort } = await this.#registry.node('pageserver', pageserverId)
        const primary = { host, pgPort, httpPort }
        const told = await pageserverApi.setLocation(node, id, { mode: 'secondary', primary }).then(
          () => true,
          () => false,
        )
        if (told) this.#warmed.add(key)
      }
    }
  }

  /** One that does not answer learns it when it starts again. */
  async #forget(tenantId: string, shard: number, secondary: number): Promise<void> {
    this.forgetNode(secondary)
    const { shardCount } = await this.#registry.tenant(tenantId)
    const id = tenantShardId(tenantId, shard, shardCount)
    const node = await this.#registry.node('pageserver', secondary)
    await pageserverApi.setLocation(node, id, { mode: 'detached' }).catch(() => undefined)
  }

  #info({ tenantId }: TenantRecord, placement: PlacementRecord): TenantMoveInfo {
    const { shard, pageserverId, generation, secondary, move } = placement
    const run = this.#runs.get(`${tenantId}/${shard}`)
    return {
      tenantId,
      shard,
      pageserverId,
      generation,
      secondary,
      move:
        move === undefined
          ? null
          : {
              from: move.from,
              to: move.to,
              phase: move.phase,
              lost: move.lost,
              missingBytes: run?.missingBytes ?? null,
              problem: run?.problem ?? null,
            },
    }
  }
}

function beingSplit(tenantId: string): ZenithError {
  return new ZenithError('conflict', `The shards of tenant ${tenantId} are just being split.`, {
    hint: 'Try again when that has ended; zenith tenant split shows how far it is.',
  })
}
