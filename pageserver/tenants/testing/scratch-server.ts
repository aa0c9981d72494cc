/** A tenant manager over a temporary folder, for tests: can crash and come back. */
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newTenantId, type TenantId } from '#libs/ids.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { CompactionRunner } from '../../compaction/job.ts'
import type { Logger } from '#libs/log.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { tenantShardId } from '#libs/sharding.ts'
import type { Appliers } from '../../read/reconstruct.ts'
import { NO_DELETIONS } from '../../remote/deletions.ts'
import { LayerMemory } from '../../layers/layer-memory.ts'
import type { DeltaFiles } from '../../timeline/delta-writer.ts'
import type { StorageLimits, StorageStep } from '../../timeline/storage-context.ts'
import { sweepFormer } from '../former.ts'
import type { Tenant } from '../tenant.ts'
import { TenantManager } from '../tenant-manager.ts'
import { FaultyStore } from './faulty-store.ts'
import { type ToyRedo, toyRedo } from './toy-redo.ts'

export interface ScratchShards {
  count: number
  stripeBlocks: number
}

export class ScratchServer implements AsyncDisposable {
  readonly folder: string
  readonly tenantId: TenantId = newTenantId()
  readonly toy: ToyRedo = toyRedo()
  readonly errors: string[] = []
  /** Set by a test: called at each step of flushes; throwing acts out a failure there. */
  onStep: (step: StorageStep) => void = () => undefined
  /** Makes what runs compaction jobs from the next restart on; null = this thread. */
  runner: ((store: ObjectStore) => CompactionRunner) | null = null
  /** Writes frozen layers from the next restart on; null = this thread. */
  deltaFiles: DeltaFiles | null = null
  /** Small layers come to use memory again, too, and whoever still reads what is gone sees ones. */
  readonly layerMemory = new LayerMemory({
    slabBytes: 16 * 1024,
    smallestRowsBytes: 0,
    isOverwritten: true,
  })
  /** Objects that are to be deleted; as a queue on disk, it outlives a crash. */
  readonly doomed: string[] = []
  /** What the running page server sees of object storage; a new one at each start. */
  faults!: FaultyStore
  #manager: TenantManager | null = null
  #generation = 0
  readonly #limits: Partial<StorageLimits>
  readonly #appliers: Appliers
  #shards: ScratchShards | null
  /** Those that were split, and have objects left. */
  readonly #former: TenantId[] = []

  private constructor(
    folder: string,
    limits: Partial<StorageLimits>,
    appliers?: Appliers,
    shards?: ScratchShards,
  ) {
    this.folder = folder
    this.#limits = limits
    this.#appliers = appliers ?? this.toy
    this.#shards = shards ?? null
  }

  /** Redo is a toy unless given; so many shards of the tenant, or the whole of it. */
  static async start(
    limits: Partial<StorageLimits> = {},
    appliers?: Appliers,
    shards?: ScratchShards,
  ): Promise<ScratchServer> {
    const folder = await mkdtemp(join(tmpdir(), 'pageserver-storage-'))
    const server = new ScratchServer(folder, limits, appliers, shards)
    await server.restart()
    return server
  }

  /** The tenant, or shard 0 of it. */
  get tenant(): Tenant {
    return this.shards[0] as Tenant
  }

  /** All shards in their order; one when the tenant is not sharded. */
  get shards(): Tenant[] {
    return this.#shardIds.map((id) => this.manager.tenant(id))
  }

  get #shardIds(): TenantId[] {
    const count = this.#shards?.count ?? 1
    return Array.from({ length: count }, (_, shard) => tenantShardId(this.tenantId, shard, count))
  }

  get manager(): TenantManager {
    return this.#manager as TenantManager
  }

  get localFolder(): string {
    return join(this.folder, 'local')
  }

  get store(): LocalObjectStore {
    return new LocalObjectStore(join(this.folder, 'objects'))
  }

  /** Attaches under the next generation; what was running is let go as by a crash. */
  async restart(options: { clean?: boolean; wipeLocal?: boolean } = {}): Promise<void> {
    if (options.clean) await this.#manager?.shutdown()
    else await this.#manager?.abandon()
    if (options.wipeLocal) await rm(this.localFolder, { recursive: true, force: true })
    await mkdir(this.localFolder, { recursive: true })
    const log = {
      info() {},
      warn() {},
      error: (facts: unknown, text?: string) => this.errors.push(text ?? String(facts)),
    }
    this.faults = new FaultyStore(this.store)
    this.#manager = new TenantManager({
      dataDir: this.localFolder,
      objectStore: this.faults,
      ...this.#appliers,
      layerMemory: this.layerMemory,
      deletions: {
        ...NO_DELETIONS,
        push: (tenantId, _generation, names) => {
          const own = `tenants/${tenantId}/`
          const foreign = names.find((name) => !name.startsWith(own))
          if (foreign !== undefined) this.errors.push(`${tenantId} releases ${foreign}`)
          this.doomed.push(...names)
        },
      },
      log: log as unknown as Logger,
      limits: this.#limits,
      ...(this.deltaFiles ? { deltaFiles: this.deltaFiles } : {}),
      ...(this.runner ? { compaction: this.runner(this.store) } : {}),
      onStep: (step) => this.onStep(step),
    })
    this.#generation++
    for (const id of this.#shardIds) {
      await this.#manager.attach(id, this.#generation, undefined, this.#shards?.stripeBlocks)
    }
  }

  /**
   * Splits the tenant as the control plane does it: its shards are stale, their children take over,
   * they are let go. `cutOff` timelines are taken over before it is cut off, and done again.
   */
  async split(shards: ScratchShards, cutOff: number): Promise<void> {
    const parents = this.shards
    for (const tenant of parents) await tenant.become('stale')
    const generation = this.#generation
    this.#shards = shards
    const outer = this.onStep
    let left = cutOff
    this.onStep = (step) => {
      if (step === 'split-timeline' && left-- === 0) throw new Error('the split is cut off')
      outer(step)
    }
    for (const [shard, id] of this.#shardIds.entries()) {
      const { tenantId } = parents[shard % parents.length] as Tenant
      const attach = () =>
        this.manager.attach(id, ++this.#generation, undefined, shards.stripeBlocks, 'attached', {
          tenantId,
          generation,
        })
      await attach().catch(attach)
    }
    this.onStep = outer
    for (const { tenantId } of parents) await this.manager.detach(tenantId)
    this.#former.push(...parents.map(({ tenantId }) => tenantId))
  }

  /** Deletes objects of former shards that none of those of now refers to; tells how many are left. */
  async sweepFormer(): Promise<number> {
    const keep = new Set(this.shards.flatMap(({ lives }) => lives.borrowed()))
    const [own] = this.#shardIds as [TenantId]
    let left = 0
    for (const former of this.#former) left += await sweepFormer(this.faults, own, former, keep)
    return left
  }

  /** Lets go as by a crash and stays down; `restart` brings it back. */
  async crash(): Promise<void> {
    await this.#manager?.abandon()
    this.#manager = null
  }

  /** Paths of all local files, for tests that lose or damage some while the server is down. */
  async localFiles(): Promise<string[]> {
    const found = await readdir(this.localFolder, { recursive: true, withFileTypes: true })
    return found
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .toSorted()
  }

  /** Works off the queue of objects to delete. */
  async deleteDoomed(): Promise<void> {
    for (let name = this.doomed[0]; name !== undefined; name = this.doomed[0]) {
      await this.faults.delete(name)
      this.doomed.shift()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  async stop(): Promise<void> {
    await this.#manager?.abandon()
    await rm(this.folder, { recursive: true, force: true })
  }
}
