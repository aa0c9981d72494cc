/**
 * Discovery by etcd. Each safekeeper keeps one key per timeline under a lease, so that what it said
 * vanishes with it; everybody watches them:
 *
 *   <prefix>discovery/message/<tenant>/<timeline>/<node>    a frame of `message.ts`
 *   <prefix>discovery/request/<tenant>/<timeline>           likewise, for a moment
 *
 * A message that says nothing new is written again only now and then: each write is a revision that
 * etcd keeps until it is compacted. When the watch has fallen behind a compaction, the keys are
 * listed anew.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { errorMessage, ZenithError } from '../errors.ts'
import {
  DEFAULT_ETCD_PREFIX,
  encode,
  EtcdClient,
  type EtcdKeyValue,
  type EtcdOperation,
  type EtcdSettings,
  prefixEnd,
  type WatchAnswer,
} from '../etcd/etcd-client.ts'
import type { OpenStream } from '../http/stream.ts'
import type { Logger } from '../log.ts'
import { type Discovery, type DiscoveryListener, DiscoveryListeners } from './discovery.ts'
import {
  type DiscoveryFrame,
  type DiscoveryMessage,
  encodeFrame,
  FrameSplitter,
  type TimelineKey,
  timelineKeyText,
} from './message.ts'
import { Outbox } from './outbox.ts'

const LEASE_SECONDS = 10
const KEEP_ALIVE_MS = 3_000
/** etcd takes up to 128 operations in a transaction. */
const BATCH_FRAMES = 100
const RETRY_MS = 500
/** A message that is as before is written again after this long: who is silent for 5 s counts as gone. */
const REFRESH_MS = 3_000

interface Written {
  text: string
  atMs: number
}

export class EtcdDiscovery implements Discovery {
  readonly #client: EtcdClient
  readonly #log: Logger
  readonly #prefix: string
  readonly #listeners = new DiscoveryListeners()
  readonly #outbox = new Outbox()
  readonly #closing = new AbortController()
  readonly #written = new Map<string, Written>()
  #lease: string | null = null
  #leaseAtMs = 0
  #sending = false
  #watch: OpenStream | null = null
  #endWatch: (error: ZenithError) => void = () => {}
  #watching = false
  #connected = false

  constructor(settings: EtcdSettings, log: Logger) {
    this.#client = new EtcdClient(settings.endpoints)
    this.#prefix = `${settings.prefix ?? DEFAULT_ETCD_PREFIX}discovery/`
    this.#log = log
  }

  get connected(): boolean {
    return this.#connected
  }

  publish(messages: readonly DiscoveryMessage[]): void {
    const nowMs = performance.now()
    for (const message of messages) {
      const name = `${timelineKeyText(message)}/${message.nodeId}`
      const text = JSON.stringify({ ...message, sentAtMs: 0 })
      const before = this.#written.get(name)
      if (before?.text === text && nowMs - before.atMs < REFRESH_MS) continue
      this.#written.delete(name)
      this.#written.set(name, { text, atMs: nowMs })
      this.#outbox.put({ kind: 'message', ...message })
    }
    this.#forgetWritten(nowMs)
    this.#send()
  }

  request(timeline: TimelineKey): void {
    const { tenantId, timelineId } = timeline
    this.#outbox.put({ kind: 'request', tenantId, timelineId })
    this.#send()
  }

  subscribe(timeline: TimelineKey | null, listener: DiscoveryListener): () => void {
    const remove = this.#listeners.add(timeline, listener)
    if (!this.#watching) {
      this.#watching = true
      void this.#keepWatching()
    }
    return remove
  }

  async close(): Promise<void> {
    this.#closing.abort()
    this.#watch?.close()
    this.#endWatch(new ZenithError('unavailable', 'discovery is closed'))
    this.#connected = false
    const lease = this.#lease
    this.#lease = null
    if (lease === null) return
    // Our keys go at once, not when the lease runs out.
    await this.#client.call('/v3/lease/revoke', { ID: lease }, { timeoutMs: 500 }).catch(() => {})
  }

  #forgetWritten(nowMs: number): void {
    for (const [name, { atMs }] of this.#written) {
      if (nowMs - atMs < 2 * REFRESH_MS) break
      this.#written.delete(name)
    }
  }

  #send(): void {
    if (this.#sending || this.#outbox.size === 0 || this.#closing.signal.aborted) return
    this.#sending = true
    this.#put()
      .catch(async (error: unknown) => {
        this.#log.debug({ err: errorMessage(error) }, 'etcd did not take our news')
        // Perhaps the lease is gone; and what was lost is to be written again.
        this.#lease = null
        this.#written.clear()
        await sleep(RETRY_MS, undefined, { signal: this.#closing.signal, ref: false })
      })
      .catch(() => {})
      .finally(() => {
        this.#sending = false
        this.#send()
      })
  }

  async #put(): Promise<void> {
    await Promise.resolve()
    const lease = await this.#liveLease()
    const success = this.#outbox.take(BATCH_FRAMES).map(
      (frame): EtcdOperation => ({
        request_put: {
          key: encode(this.#keyOf(frame)),
          value: encodeFrame(frame).toString('base64'),
          lease,
        },
      }),
    )
    await this.#client.call('/v3/kv/txn', { success })
  }

  #keyOf(frame: DiscoveryFrame): string {
    const timeline = timelineKeyText(frame)
    if (frame.kind === 'request') return `${this.#prefix}request/${timeline}`
    return `${this.#prefix}message/${timeline}/${frame.nodeId}`
  }

  /** A lease that lives; renewed by its use, which is each second or so while anything is active. */
  async #liveLease(): Promise<string> {
    const nowMs = performance.now()
    if (this.#lease !== null && nowMs - this.#leaseAtMs < KEEP_ALIVE_MS) return this.#lease
    if (this.#lease !== null && nowMs - this.#leaseAtMs < LEASE_SECONDS * 1000) {
      const answer = await this.#client.call<{ result?: { TTL?: string } }>('/v3/lease/keepalive', {
        ID: this.#lease,
      })
      if (Number(answer.result?.TTL ?? 0) > 0) {
        this.#leaseAtMs = nowMs
        return this.#lease
      }
    }
    const { ID } = await this.#client.call<{ ID: string }>('/v3/lease/grant', {
      TTL: String(LEASE_SECONDS),
    })
    this.#lease = ID
    this.#leaseAtMs = nowMs
    return ID
  }

  async #keepWatching(): Promise<void> {
    const { signal } = this.#closing
    while (!signal.aborted) {
      try {
        await this.#listAndWatch()
      } catch (error) {
        if (signal.aborted) return
        this.#log.debug({ err: errorMessage(error) }, 'no news from etcd')
        this.#client.useNext()
      }
      this.#connected = false
      await sleep(RETRY_MS, undefined, { signal, ref: false }).catch(() => {})
    }
  }

  /** Tells what is there, then what changes, until the watch ends; its end is an error. */
  async #listAndWatch(): Promise<never> {
    const now = await this.#client.range(
      `${this.#prefix}message/`,
      prefixEnd(`${this.#prefix}message/`),
    )
    if (this.#closing.signal.aborted) throw new ZenithError('unavailable', 'discovery is closed')
    for (const entry of now.kvs ?? []) this.#tell(entry)
    return await new Promise((_resolve, reject) => {
      this.#endWatch = reject
      this.#watch = this.#client.watchPrefix(this.#prefix, Number(now.header.revision) + 1, {
        onAnswer: (answer) => this.#onAnswer(answer),
        onEnd: reject,
      })
    })
  }

  #onAnswer(answer: WatchAnswer): void {
    if (answer.canceled) {
      // Behind a compaction, most often: what was missed is listed.
      const reason = answer.cancel_reason ?? `compacted at ${answer.compact_revision}`
      throw new ZenithError('unavailable', `etcd ended the watch: ${reason}`)
    }
    this.#connected = true
    for (const { type, kv } of answer.events ?? []) if (type !== 'DELETE') this.#tell(kv)
  }

  #tell(entry: EtcdKeyValue): void {
    let frames: DiscoveryFrame[]
    try {
      frames = new FrameSplitter().push(Buffer.from(entry.value ?? '', 'base64'))
    } catch (error) {
      this.#log.debug({ err: errorMessage(error) }, 'a key of discovery holds something else')
      return
    }
    for (const frame of frames) this.#listeners.tell(frame)
  }
}
