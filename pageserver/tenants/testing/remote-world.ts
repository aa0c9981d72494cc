/**
 * Page servers over one object storage that can fail, with one control plane that hands out
 * generations, for tests: each page server has its own data folder and can crash and come back.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../../keyspace/key-class.ts'
import { AccessTimes } from '../../remote/access-times.ts'
import { DeletionQueue, type DeletionQueueOptions } from '../../remote/deletion-queue.ts'
import type { Generations } from '../../remote/generations.ts'
import { LocalState } from '../../remote/local-state.ts'
import type { StorageLimits, StorageStep } from '../../timeline/storage-context.ts'
import type { Timeline } from '../../timeline/timeline.ts'
import type { Tenant } from '../tenant.ts'
import { TenantManager, type TenantManagerOptions } from '../tenant-manager.ts'
import { FaultyStore } from './faulty-store.ts'
import { toyRedo } from './toy-redo.ts'

export const START_LSN = 0x1000
export const BLOCKS = 24

export class RemoteWorld implements AsyncDisposable {
  readonly folder: string
  readonly store: FaultyStore
  readonly tenantId = newTenantId()
  readonly timelineId = newTimelineId()
  /** The newest generation that the control plane has given out. */
  generation = 0
  /** The control plane does not answer when false. */
  isControlUp = true
  readonly #servers: RemoteServer[] = []

  private constructor(folder: string) {
    this.folder = folder
    this.store = new FaultyStore(new LocalObjectStore(join(folder, 'objects')))
  }

  static async create(): Promise<RemoteWorld> {
    return new RemoteWorld(await mkdtemp(join(tmpdir(), 'pageserver-remote-')))
  }

  readonly generations: Generations = {
    validate: async (_tenantId, generation) => {
      if (!this.isControlUp) throw new ZenithError('unavailable', 'the control plane is down')
      return generation === this.generation
    },
  }

  /** A page server that attaches the tenant under the next generation. */
  async server(name: string, options: Partial<RemoteServerOptions> = {}): Promise<RemoteServer> {
    const server = new RemoteServer(this, join(this.folder, name), options)
    this.#servers.push(server)
    await server.start()
    return server
  }

  /** Names of all objects, without the folder of the tenant. */
  async objects(): Promise<string[]> {
    const { objects } = await this.store.list('')
    return objects.map(({ name }) => name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.store.heal()
    for (const server of this.#servers) await server.crash()
    await rm(this.folder, { recursive: true, force: true })
  }
}

export interface RemoteServerOptions extends Partial<TenantManagerOptions> {
  limits: Partial<StorageLimits>
  onDeletionStep: NonNullable<DeletionQueueOptions['onStep']>
}

export class RemoteServer {
  readonly dataDir: string
  readonly warnings: string[] = []
  onStep: (step: StorageStep) => void = () => undefined
  deletions!: DeletionQueue
  manager!: TenantManager
  readonly #world: RemoteWorld
  readonly #options: Partial<RemoteServerOptions>
  #state: LocalState | null = null

  constructor(world: RemoteWorld, dataDir: string, options: Partial<RemoteServerOptions>) {
    this.#world = world
    this.dataDir = dataDir
    this.#options = options
  }

  get tenant(): Tenant {
    return this.manager.tenant(this.#world.tenantId)
  }

  get timeline(): Timeline {
    return this.tenant.timeline(this.#world.timelineId)
  }

  get state(): LocalState {
    return this.#state as LocalState
  }

  /** Attaches under the next generation; `generation` for one that it was given before. */
  async start(generation: number = ++this.#world.generation): Promise<void> {
    const { store, generations, tenantId } = this.#world
    const tell = (_: unknown, text?: string) => this.warnings.push(text ?? String(_))
    const log = { info() {}, warn: tell, error: tell } as unknown as Logger
    this.#state = LocalState.open(this.dataDir, log)
    const { onDeletionStep, ...options } = this.#options
    this.deletions = new DeletionQueue({
      state: this.#state,
      store,
      generations,
      log,
      gatherMs: 1,
      ...(onDeletionStep ? { onStep: onDeletionStep } : {}),
    })
    this.manager = new TenantManager({
      dataDir: this.dataDir,
      objectStore: store,
      deletions: this.deletions,
      generations,
      accesses: new AccessTimes(this.#state, log),
      ...toyRedo(),
      log,
      ...options,
      // Objects and manifests are those of flushes and of what a test asks for.
      limits: { shutdownFlushMs: 1000, l0CompactCount: 1000, ...options.limits },
      disk: { maxUsagePercent: 100, minFreeBytes: 0, ...options.disk },
      onStep: (step) => this.onStep(step),
    })
    await this.manager.attach(tenantId, generation)
  }

  /** Lets go of everything at once; what a process would have in memory is lost. */
  async crash(): Promise<void> {
    if (!this.#state) return
    await this.manager.abandon()
    await this.deletions.close()
    await this.#state.close()
    this.#state = null
  }

  async restart(options: { wipeDisk?: boolean } = {}): Promise<void> {
    await this.crash()
    if (options.wipeDisk) await rm(this.dataDir, { recursive: true, force: true })
    await this.start()
  }

  /** Makes the world's timeline, with round 0 in it. */
  async create(): Promise<Timeline> {
    const { tenantId, timelineId } = this.#world
    return await this.manager.createTimeline(
      tenantId,
      timelineId,
      { startLsn: START_LSN, systemId: '7000000000000000001', pgVersion: 170011 },
      async (timeline) => putRound(timeline, 0),
    )
  }
}

export function lsnOf(round: number): number {
  return START_LSN + round * 800
}

/** Writes every block anew; the round's end is `lsnOf(round)`. */
export function putRound(timeline: Timeline, round: number): void {
  const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
  const size = Buffer.alloc(4)
  size.writeUInt32LE(BLOCKS)
  const sizeSlot = timeline.slot(KeyClass.RelSize, 1, 2, 3, 0)
  timeline.put(sizeSlot, 0, lsnOf(round), ValueKind.Image, size, 0, 4)
  for (let blk = 0; blk < BLOCKS; blk++) {
    const page = pageOf(round, blk)
    timeline.put(slot, blk, lsnOf(round), ValueKind.Image, page, 0, PAGE_SIZE)
  }
  timeline.publish(lsnOf(round))
}

/** Fails unless every block is as the round left it. */
export async function checkRound(timeline: Timeline, round: number): Promise<void> {
  const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
  const pages = await timeline.readPages(slot, 0, BLOCKS, lsnOf(round))
  for (let blk = 0; blk < BLOCKS; blk++) {
    const page = pages.subarray(blk * PAGE_SIZE, (blk + 1) * PAGE_SIZE)
    if (!page.equals(pageOf(round, blk))) {
      throw new Error(`block ${blk} is not as round ${round} left it`)
    }
  }
}

/** Hard to compress, so that files have about the size of their pages. */
function pageOf(round: number, blk: number): Buffer {
  const page = Buffer.alloc(PAGE_SIZE)
  let state = round * 1000 + blk + 1
  for (let at = 0; at < PAGE_SIZE; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    page.writeUInt32LE(state, at)
  }
  return page
}
