/**
 * Typed access to the records: finds them or throws the sentence that says what is missing, and
 * runs read-decide-write loops until their compare-and-swap holds.
 */
import type { NodeInfo } from '#libs/api/node-info.ts'
import { ZenithError } from '#libs/errors.ts'
import { unknownName } from './names.ts'
import {
  type BranchRecord,
  type DeletedTenantRecord,
  type EndpointRecord,
  type NodeKind,
  type NodeRecord,
  recordKey,
  type TenantRecord,
  type TimelineRecord,
} from './records.ts'
import { readTenant } from './tenant-record.ts'
import type { Change, Store, Versioned } from './store/store.ts'

const MAX_ATTEMPTS = 50

export class Registry {
  readonly #store: Store

  constructor(store: Store) {
    this.#store = store
  }

  /** A record with its version, for a `swap` of several. */
  read<T>(key: string): Promise<Versioned<T> | null> {
    return this.#store.get<T>(key)
  }

  swap(changes: readonly Change[]): Promise<boolean> {
    return this.#store.compareAndSwap(changes)
  }

  /**
   * Reads a record, lets `decide` make the next one, and stores it; again when somebody else came
   * between. `decide` returns the same object to leave the record alone, null to remove it.
   */
  async update<T>(key: string, decide: (current: T | null) => T | null): Promise<T | null> {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const entry = await this.#store.get<T>(key)
      const next = decide(entry?.value ?? null)
      if (next === (entry?.value ?? null)) return next
      const change = { key, expectedVersion: entry?.version ?? 0, value: next }
      if (await this.#store.compareAndSwap([change])) return next
    }
    throw new ZenithError('conflict', `the record ${key} keeps changing under our hands`)
  }

  /** As `update`, for a record that must exist and stays. */
  async change<T>(key: string, decide: (current: T) => T): Promise<T> {
    const next = await this.update<T>(key, (current) => {
      if (current === null) throw new ZenithError('not_found', `the record ${key} is gone`)
      return decide(current)
    })
    return next as T
  }

  /** Those that are in service; draining safekeepers are, removed ones are not. */
  async nodes(kind: NodeKind): Promise<NodeRecord[]> {
    return (await this.allNodes(kind)).filter(({ state }) => state !== 'removed')
  }

  async allNodes(kind: NodeKind): Promise<NodeRecord[]> {
    return (await this.#store.range<NodeRecord>(recordKey.nodes(kind))).map(({ value }) => value)
  }

  async node(kind: NodeKind, id: number): Promise<NodeRecord> {
    const entry = await this.#store.get<NodeRecord>(recordKey.node(kind, id))
    if (entry) return entry.value
    throw new ZenithError('not_found', `${kind} ${id} is not registered.`)
  }

  /** Addresses of a timeline's members, in the order of their ids. */
  async members(timeline: TimelineRecord): Promise<NodeInfo[]> {
    return this.#safekeepers(timeline.safekeepers)
  }

  /** Addresses of those who take over; null unless a change of the members is under way. */
  async newMembers(timeline: TimelineRecord): Promise<NodeInfo[] | null> {
    return timeline.newSafekeepers === undefined ? null : this.#safekeepers(timeline.newSafekeepers)
  }

  #safekeepers(ids: readonly number[]): Promise<NodeInfo[]> {
    return Promise.all(ids.map(async (id) => addressOf(await this.node('safekeeper', id))))
  }

  async tenants(): Promise<TenantRecord[]> {
    const entries = await this.#store.range<TenantRecord>(recordKey.tenants())
    return entries.map(({ value }) => readTenant(value)).sort(oldestFirst)
  }

  async tenant(tenantId: string): Promise<TenantRecord> {
    const entry = await this.findTenant(tenantId)
    if (entry) return entry.value
    throw new ZenithError('not_found', `There is no tenant ${tenantId}.`, {
      hint: 'zenith tenant list shows the tenants there are.',
    })
  }

  async findTenant(tenantId: string): Promise<Versioned<TenantRecord> | null> {
    const entry = await this.#store.get<TenantRecord>(recordKey.tenant(tenantId))
    return entry && { ...entry, value: readTenant(entry.value) }
  }

  async deletedTenants(): Promise<DeletedTenantRecord[]> {
    const entries = await this.#store.range<DeletedTenantRecord>(recordKey.deletedTenants())
    return entries.map(({ value }) => value)
  }

  /** Null unless there was a tenant of this id, and it was deleted. */
  async deletedTenant(tenantId: string): Promise<DeletedTenantRecord | null> {
    const entry = await this.#store.get<DeletedTenantRecord>(recordKey.deletedTenant(tenantId))
    return entry?.value ?? null
  }

  /** As `change`, for the record of a tenant; a record of an old form is stored in the present one. */
  changeTenant(
    tenantId: string,
    decide: (current: TenantRecord) => TenantRecord,
  ): Promise<TenantRecord> {
    return this.change<TenantRecord>(recordKey.tenant(tenantId), (stored) =>
      decide(readTenant(stored)),
    )
  }

  async timelines(tenantId?: string): Promise<TimelineRecord[]> {
    const entries = await this.#store.range<TimelineRecord>(recordKey.timelines(tenantId))
    return entries.map(({ value }) => value).sort(oldestFirst)
  }

  async timeline(tenantId: string, timelineId: string): Promise<TimelineRecord> {
    const key = recordKey.timeline(tenantId, timelineId)
    const entry = await this.#store.get<TimelineRecord>(key)
    if (entry) return entry.value
    throw new ZenithError('not_found', `There is no timeline ${timelineId}.`)
  }

  async branches(tenantId: string): Promise<BranchRecord[]> {
    const entries = await this.#store.range<BranchRecord>(recordKey.branches(tenantId))
    return entries.map(({ value }) => value).sort(oldestFirst)
  }

  async findBranch(tenantId: string, name: string): Promise<Versioned<BranchRecord> | null> {
    return this.#store.get<BranchRecord>(recordKey.branch(tenantId, name))
  }

  async branch(tenantId: string, name: string): Promise<BranchRecord> {
    const entry = await this.findBranch(tenantId, name)
    if (entry) return entry.value
    await this.tenant(tenantId)
    const known = (await this.branches(tenantId)).map((branch) => branch.name)
    throw unknownName('branch', name, known)
  }

  async endpoints(tenantId?: string): Promise<EndpointRecord[]> {
    const entries = await this.#store.range<EndpointRecord>(recordKey.endpoints(tenantId))
    return entries.map(({ value }) => value).sort(oldestFirst)
  }

  async endpoint(tenantId: string, name: string): Promise<EndpointRecord> {
    const entry = await this.#store.get<EndpointRecord>(recordKey.endpoint(tenantId, name))
    if (entry) return entry.value
    await this.tenant(tenantId)
    const known = (await this.endpoints(tenantId)).map((endpoint) => endpoint.name)
    throw unknownName('endpoint', name, known)
  }
}

/** A node without what only the control plane knows of it. */
export function addressOf({ id, host, pgPort, httpPort }: NodeRecord): NodeInfo {
  return { id, host, pgPort, httpPort }
}

function oldestFirst(a: { createdAt: string }, b: { createdAt: string }): number {
  return a.createdAt < b.createdAt ? -1 : a.createdAt > b.createdAt ? 1 : 0
}
