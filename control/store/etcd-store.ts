/**
 * The store of control planes that share an etcd: every record is a key `<prefix>control/<key>`.
 *
 * An answer of etcd can be lost after it has changed something. So each swap also creates a key of
 * its own, its token, and only together with it. Who does not know how a swap ended tries to create
 * that token first: either it is there, then the swap was done; or it is taken now, then the swap can
 * never be done any more, even if it is still on its way. Tokens vanish with their lease.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { ZenithError } from '#libs/errors.ts'
import {
  AmbiguousAnswer,
  decode,
  DEFAULT_ETCD_PREFIX,
  encode,
  EtcdClient,
  type EtcdCompare,
  type EtcdKeyValue,
  type EtcdOperation,
  type EtcdSettings,
  prefixEnd,
  type RangeAnswer,
  type TxnAnswer,
} from '#libs/etcd/etcd-client.ts'
import type { Change, Store, Versioned } from './store.ts'

/** etcd's own limit is 128 operations; the token is one. */
const MAX_CHANGES = 127
const PAGE_KEYS = 500
const TOKEN_LEASE_SECONDS = 600
const LEASE_RENEWAL_MS = 300_000
/** How long the fate of a swap is asked for, and how often a swap that was not done is tried again. */
const ASK_FOR_MS = 15_000
const ASK_PAUSE_MS = 200
const MAX_TRIES = 3

export class EtcdStore implements Store {
  readonly #client: EtcdClient
  readonly #records: string
  readonly #tokens: string
  #lease: { id: string; grantedAtMs: number } | null = null

  constructor(settings: EtcdSettings, client = new EtcdClient(settings.endpoints)) {
    const prefix = settings.prefix ?? DEFAULT_ETCD_PREFIX
    this.#client = client
    this.#records = `${prefix}control/`
    this.#tokens = `${prefix}control-token/`
  }

  async get<T>(key: string): Promise<Versioned<T> | null> {
    const { kvs } = await this.#client.range(this.#records + key)
    const entry = kvs?.[0]
    return entry === undefined ? null : this.#versioned<T>(entry)
  }

  /** All of it as of one moment, however many pages that takes. */
  async range<T>(prefix: string): Promise<Versioned<T>[]> {
    const found: Versioned<T>[] = []
    const start = this.#records + prefix
    let from = start
    let revision: string | undefined
    while (true) {
      const page: RangeAnswer = await this.#client.call('/v3/kv/range', {
        key: encode(from),
        range_end: encode(prefixEnd(start)),
        limit: String(PAGE_KEYS),
        ...(revision === undefined ? {} : { revision }),
      })
      for (const entry of page.kvs ?? []) found.push(this.#versioned<T>(entry))
      const last = page.kvs?.at(-1)
      if (!page.more || last === undefined) return found
      revision ??= page.header.revision
      from = `${decode(last.key)}\0`
    }
  }

  async compareAndSwap(changes: readonly Change[]): Promise<boolean> {
    if (changes.length > MAX_CHANGES) {
      const message = `${changes.length} records cannot change at once in etcd`
      throw new ZenithError('unsupported', message, { hint: `At most ${MAX_CHANGES} can.` })
    }
    for (let tries = 1; ; tries += 1) {
      const token = `${this.#tokens}${randomUUID()}`
      try {
        return await this.#swap(changes, token)
      } catch (error) {
        if (!(error instanceof AmbiguousAnswer)) throw error
        if (await this.#wasDone(token, error)) return true
        if (tries === MAX_TRIES) throw error
      }
    }
  }

  async close(): Promise<void> {}

  /** Throws `AmbiguousAnswer` when it may have been done. */
  async #swap(changes: readonly Change[], token: string): Promise<boolean> {
    const lease = await this.#tokenLease()
    const compare = changes.map(
      ({ key, expectedVersion }): EtcdCompare => ({
        key: encode(this.#records + key),
        target: 'VERSION',
        result: 'EQUAL',
        version: String(expectedVersion),
      }),
    )
    const success = changes.map(({ key, value }): EtcdOperation => {
      const name = encode(this.#records + key)
      if (value === null) return { request_delete_range: { key: name } }
      return { request_put: { key: name, value: encode(JSON.stringify(value)) } }
    })
    const answer = await this.#client.call<TxnAnswer>(
      '/v3/kv/txn',
      {
        compare: [...compare, absent(token)],
        success: [...success, { request_put: { key: encode(token), value: '', lease } }],
      },
      { once: true },
    )
    return answer.succeeded === true
  }

  /** Finds out whether the swap with that token was done, and makes sure that it is not done later. */
  async #wasDone(token: string, doubt: AmbiguousAnswer): Promise<boolean> {
    const deadline = performance.now() + ASK_FOR_MS
    // Its value tells this key from the swap's own: an answer to this question can be lost as well.
    const fence = randomUUID()
    while (performance.now() < deadline) {
      try {
        const lease = await this.#tokenLease()
        const answer = await this.#client.call<TxnAnswer>('/v3/kv/txn', {
          compare: [absent(token)],
          success: [{ request_put: { key: encode(token), value: encode(fence), lease } }],
          failure: [{ request_range: { key: encode(token) } }],
        })
        if (answer.succeeded === true) return false
        return decode(answer.responses?.[0]?.response_range?.kvs?.[0]?.value) !== fence
      } catch (error) {
        if (!(error instanceof ZenithError) || error.code !== 'unavailable') throw error
        await sleep(ASK_PAUSE_MS)
      }
    }
    throw new ZenithError(
      'unavailable',
      `whether a change was stored is not known: ${doubt.message}`,
    )
  }

  async #tokenLease(): Promise<string> {
    const nowMs = performance.now()
    if (this.#lease !== null && nowMs - this.#lease.grantedAtMs < LEASE_RENEWAL_MS) {
      return this.#lease.id
    }
    try {
      const { ID } = await this.#client.call<{ ID: string }>('/v3/lease/grant', {
        TTL: String(TOKEN_LEASE_SECONDS),
      })
      this.#lease = { id: ID, grantedAtMs: nowMs }
      return ID
    } catch (error) {
      // A lease more or less changes no record: whatever became of it, nothing was stored.
      if (!(error instanceof AmbiguousAnswer)) throw error
      throw new ZenithError('unavailable', error.message)
    }
  }

  #versioned<T>(entry: EtcdKeyValue): Versioned<T> {
    return {
      key: decode(entry.key).slice(this.#records.length),
      value: JSON.parse(decode(entry.value)) as T,
      version: Number(entry.version),
    }
  }
}

function absent(key: string): EtcdCompare {
  return { key: encode(key), target: 'VERSION', result: 'EQUAL', version: '0' }
}
