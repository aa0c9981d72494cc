/**
 * The queue of objects to delete, of all tenants of a page server.
 *
 * An object is deleted only after (a) a manifest of our generation that does not name it is
 * durable, which whoever pushes vouches for, and (b) the control plane has said, after the push,
 * that our generation is the newest. A higher generation loads the highest manifest that is there
 * when it begins, so after (b) nobody can come to need the object. When our generation is not the
 * newest, its whole list is dropped: the objects are the newer attachment's to judge.
 *
 * The queue survives a crash in LMDB. A list of the generation just before the attached one goes
 * on: no other generation lies between, so nobody else has written manifests since. Any other list
 * is dropped. What is dropped leaks objects and harms nothing; a scrub lists them.
 */
import { errorMessage } from '#libs/errors.ts'
import type { TenantId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { Deletions } from './deletions.ts'
import type { Generations } from './generations.ts'
import { type LocalState, type QueuedDeletion, sealed } from './local-state.ts'

/** Objects deleted in one go. */
const BATCH = 1000
/** Pushes of this long share a batch, and a question to the control plane. */
const GATHER_MS = 1000
const FIRST_RETRY_MS = 1000
const LAST_RETRY_MS = 30_000

export interface DeletionStats {
  queued: number
  deleted: number
  /** Left in storage since the generation was not the newest. */
  dropped: number
  failures: number
}

export interface DeletionQueueOptions {
  state: LocalState
  store: ObjectStore
  generations: Generations
  log: Logger
  gatherMs?: number
  /** Tests stop here to act out a crash. */
  onStep?: (step: 'deletion-queued' | 'deletion-validated' | 'objects-deleted') => void
}

export class DeletionQueue implements Deletions {
  readonly #options: DeletionQueueOptions
  /** In the order in which they came. */
  readonly #queued = new Map<number, QueuedDeletion>()
  readonly #names = new Map<string, number>()
  #lastNumber = 0
  #started = false
  #closed = false
  #pass: Promise<boolean> | null = null
  #timer: NodeJS.Timeout | null = null
  #retryMs = FIRST_RETRY_MS
  #writes: Promise<unknown> = Promise.resolve()
  readonly #settled: { names: Set<string>; resolve: () => void }[] = []
  #deleted = 0
  #dropped = 0
  #failures = 0

  /** Loads what a former run left. Nothing is deleted before `start`. */
  constructor(options: DeletionQueueOptions) {
    this.#options = options
    for (const { key, value } of options.state.deletions.getRange()) {
      this.#queued.set(key, value)
      this.#names.set(value.name, key)
      this.#lastNumber = Math.max(this.#lastNumber, key)
    }
  }

  get stats(): DeletionStats {
    const queued = this.#queued.size
    return { queued, deleted: this.#deleted, dropped: this.#dropped, failures: this.#failures }
  }

  /** To be called when the tenants are attached, so that lists of a former run have been adopted. */
  start(): void {
    this.#started = true
    this.#wakeIn(0)
  }

  push(tenantId: TenantId, generation: number, names: readonly string[]): void {
    for (const name of names) {
      if (this.#names.has(name)) continue
      this.#put(++this.#lastNumber, { tenantId, generation, name })
    }
    if (names.length > 0) this.#wakeIn(this.#options.gatherMs ?? GATHER_MS)
    this.#options.onStep?.('deletion-queued')
  }

  adopt(
    tenantId: TenantId,
    generation: number,
    unused: (names: readonly string[]) => readonly string[],
  ): void {
    const found = [...this.#queued].filter(
      ([, entry]) => entry.tenantId === tenantId && entry.generation < generation,
    )
    if (found.length === 0) return
    const free = new Set(unused(found.map(([, { name }]) => name)))
    let dropped = 0
    for (const [number, entry] of found) {
      if (entry.generation === generation - 1 && free.has(entry.name)) {
        this.#put(number, { ...entry, generation })
      } else {
        this.#remove([number])
        dropped++
      }
    }
    this.#dropped += dropped
    if (dropped > 0) this.#options.log.info({ tenantId, dropped }, 'left objects where they are')
    this.#wakeIn(0)
  }

  /** Resolves when none of these names is in the queue any more. */
  async settle(names: readonly string[]): Promise<void> {
    const waiting = new Set(names.filter((name) => this.#names.has(name)))
    if (waiting.size === 0) return
    await new Promise<void>((resolve) => {
      this.#settled.push({ names: waiting, resolve })
      this.#wakeIn(0)
    })
  }

  /** Deletes what may be deleted now; false when something must wait. For tests and shutdown. */
  async drain(): Promise<boolean> {
    for (;;) {
      if (this.#queued.size === 0) return true
      if (!(await this.#runPass())) return false
    }
  }

  /** What is queued stays in LMDB. */
  async close(): Promise<void> {
    this.#closed = true
    if (this.#timer) clearTimeout(this.#timer)
    await this.#pass
    await this.#writes
  }

  #wakeIn(delayMs: number): void {
    if (!this.#started || this.#closed || this.#queued.size === 0) return
    if (this.#timer) {
      if (delayMs > 0) return
      clearTimeout(this.#timer)
    }
    this.#timer = setTimeout(() => {
      this.#timer = null
      void this.#runPass().then((done) => {
        this.#retryMs = done ? FIRST_RETRY_MS : Math.min(this.#retryMs * 2, LAST_RETRY_MS)
        this.#wakeIn(done ? 1 : this.#retryMs * (0.5 + Math.random() / 2))
      })
    }, delayMs)
    this.#timer.unref()
  }

  #runPass(): Promise<boolean> {
    this.#pass ??= this.#deleteSome()
      .catch((error: unknown) => {
        this.#failures++
        this.#options.log.warn(`objects wait to be deleted: ${errorMessage(error)}`)
        return false
      })
      .finally(() => {
        this.#pass = null
      })
    return this.#pass
  }

  /** The oldest of the queue. What is pushed while this runs is not looked at. */
  async #deleteSome(): Promise<boolean> {
    const { generations, store, onStep } = this.#options
    const batch: [number, QueuedDeletion][] = []
    for (const entry of this.#queued) {
      batch.push(entry)
      if (batch.length === BATCH) break
    }
    const byHolder = Map.groupBy(
      batch,
      ([, { tenantId, generation }]) => `${tenantId}/${generation}`,
    )
    const deletable: [number, QueuedDeletion][] = []
    await Promise.all(
      [...byHolder.values()].map(async (entries) => {
        const { tenantId, generation } = (entries[0] as [number, QueuedDeletion])[1]
        if (await generations.validate(tenantId as TenantId, generation)) {
          deletable.push(...entries)
          return
        }
        // Adopted meanwhile: they are asked about again under their new generation.
        const stale = entries.filter(([number, entry]) => this.#queued.get(number) === entry)
        this.#remove(stale.map(([number]) => number))
        this.#dropped += stale.length
        this.#options.log.warn(
          { tenantId, generation, objects: stale.length },
          'a newer generation holds the tenant: its objects are not ours to delete',
        )
      }),
    )
    onStep?.('deletion-validated')
    if (this.#closed) return false
    await store.deleteAll(deletable.map(([, { name }]) => name))
    onStep?.('objects-deleted')
    this.#remove(deletable.map(([number]) => number))
    this.#deleted += deletable.length
    return true
  }

  #put(number: number, entry: QueuedDeletion): void {
    this.#queued.set(number, entry)
    this.#names.set(entry.name, number)
    this.#store(this.#options.state.deletions.put(number, sealed(number, entry)))
  }

  #remove(numbers: readonly number[]): void {
    for (const number of numbers) {
      const entry = this.#queued.get(number)
      if (!entry) continue
      this.#queued.delete(number)
      this.#names.delete(entry.name)
      this.#store(this.#options.state.deletions.remove(number))
      for (const waiter of this.#settled) waiter.names.delete(entry.name)
    }
    for (const waiter of this.#settled.splice(0)) {
      if (waiter.names.size === 0) waiter.resolve()
      else this.#settled.push(waiter)
    }
  }

  /** A list that cannot be stored is in memory all the same; a crash then leaks its objects. */
  #store(write: Promise<boolean>): void {
    this.#writes = Promise.all([
      this.#writes,
      write.catch((error: unknown) => {
        this.#options.log.warn(`the list of deletions cannot be stored: ${errorMessage(error)}`)
      }),
    ])
  }
}
