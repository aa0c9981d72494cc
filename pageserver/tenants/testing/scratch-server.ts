/** A tenant manager over a temporary folder, for tests: can crash and come back. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newTenantId, type TenantId } from '#libs/ids.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { CompactionRunner } from '../../compaction/job.ts'
import type { Logger } from '#libs/log.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import type { Appliers } from '../../read/reconstruct.ts'
import { NO_DELETIONS } from '../../remote/deletions.ts'
import type { StorageLimits, StorageStep } from '../../timeline/storage-context.ts'
import type { Tenant } from '../tenant.ts'
import { TenantManager } from '../tenant-manager.ts'
import { type ToyRedo, toyRedo } from './toy-redo.ts'

export class ScratchServer implements AsyncDisposable {
  readonly folder: string
  readonly tenantId: TenantId = newTenantId()
  readonly toy: ToyRedo = toyRedo()
  readonly errors: string[] = []
  /** Set by a test: called at each step of flushes; throwing acts out a failure there. */
  onStep: (step: StorageStep) => void = () => undefined
  /** Makes what runs compaction jobs from the next restart on; null = this thread. */
  runner: ((store: ObjectStore) => CompactionRunner) | null = null
  /** Objects that are to be deleted; as a queue on disk, it outlives a crash. */
  readonly doomed: string[] = []
  #manager: TenantManager | null = null
  #generation = 0
  readonly #limits: Partial<StorageLimits>
  readonly #appliers: Appliers

  private constructor(folder: string, limits: Partial<StorageLimits>, appliers?: Appliers) {
    this.folder = folder
    this.#limits = limits
    this.#appliers = appliers ?? this.toy
  }

  /** Redo is a toy unless given. */
  static async start(
    limits: Partial<StorageLimits> = {},
    appliers?: Appliers,
  ): Promise<ScratchServer> {
    const folder = await mkdtemp(join(tmpdir(), 'pageserver-storage-'))
    const server = new ScratchServer(folder, limits, appliers)
    await server.restart()
    return server
  }

  get tenant(): Tenant {
    return (this.#manager as TenantManager).tenant(this.tenantId)
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
    this.#manager = new TenantManager({
      dataDir: this.localFolder,
      objectStore: this.store,
      ...this.#appliers,
      deletions: {
        ...NO_DELETIONS,
        push: (_tenantId, _generation, names) => this.doomed.push(...names),
      },
      log: log as unknown as Logger,
      limits: this.#limits,
      ...(this.runner ? { compaction: this.runner(this.store) } : {}),
      onStep: (step) => this.onStep(step),
    })
    await this.#manager.attach(this.tenantId, ++this.#generation)
  }

  /** Works off the queue of objects to delete. */
  async deleteDoomed(): Promise<void> {
    for (const name of this.doomed.splice(0)) await this.store.delete(name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  async stop(): Promise<void> {
    await this.#manager?.abandon()
    await rm(this.folder, { recursive: true, force: true })
  }
}
