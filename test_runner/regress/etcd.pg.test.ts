/** What Zenith keeps in etcd, against a real server: the control plane's records, and discovery. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { EtcdDiscovery } from '#libs/discovery/etcd-discovery.ts'
import type { DiscoveryFrame, DiscoveryMessage } from '#libs/discovery/message.ts'
import {
  AmbiguousAnswer,
  EtcdClient,
  type EtcdCallOptions,
  prefixEnd,
  type WatchAnswer,
} from '#libs/etcd/etcd-client.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { createLogger } from '#libs/log.ts'
import { storeContract } from '../../control/store/contract-suite.ts'
import { EtcdStore } from '../../control/store/etcd-store.ts'
import { EtcdServer } from '../fixtures/etcd-server.ts'
import { discoveryMessage } from '../fixtures/discovery-message.ts'
import { freePort } from '../fixtures/free-port.ts'

let server: EtcdServer
beforeAll(async () => {
  server = await EtcdServer.start()
})
afterAll(async () => await server[Symbol.asyncDispose]())

const log = createLogger('test')
log.level = 'fatal'
const settings = (prefix = `/${randomUUID()}/`) => ({
  kind: 'etcd' as const,
  endpoints: [server.url],
  prefix,
})

storeContract('etcd', () => new EtcdStore(settings()))

/** The same is written again so often, as long as it is published. */
const REFRESH_MS = 3_000

type Fate = 'ok' | 'lost before' | 'lost after' | 'late'

/** Loses answers of swaps: etcd has not got them, has done them, or gets them after all much later. */
class LossyClient extends EtcdClient {
  fates: Fate[] = []
  swaps = 0
  readonly late: (() => Promise<unknown>)[] = []

  override async call<T>(path: string, body: unknown, options: EtcdCallOptions = {}): Promise<T> {
    if (!options.once) return await super.call<T>(path, body, options)
    this.swaps += 1
    const fate = this.fates.shift() ?? 'ok'
    if (fate === 'ok') return await super.call<T>(path, body, options)
    if (fate === 'lost after') await super.call<T>(path, body, options)
    if (fate === 'late') this.late.push(() => super.call<T>(path, body, options))
    throw new AmbiguousAnswer('the answer was lost')
  }
}

describe('a swap whose answer is lost', () => {
  const change = (key: string, expectedVersion: number, value: unknown) => [
    { key, expectedVersion, value },
  ]

  it('is known to be done when it was done', async () => {
    const client = new LossyClient([server.url])
    const store = new EtcdStore(settings(), client)
    client.fates = ['lost after']
    expect(await store.compareAndSwap(change('a', 0, 1))).toBe(true)
    expect(client.swaps).toBe(1)
    expect(await store.get('a')).toEqual({ key: 'a', value: 1, version: 1 })
    client.fates = ['lost after']
    expect(await store.compareAndSwap(change('a', 1, null))).toBe(true)
    expect(await store.get('a')).toBeNull()
  })

  it('is made again when it was not done, and never later', async () => {
    const client = new LossyClient([server.url])
    const store = new EtcdStore(settings(), client)
    client.fates = ['lost before', 'late']
    expect(await store.compareAndSwap(change('a', 0, 'first'))).toBe(true)
    expect(client.swaps).toBe(3)
    expect(await store.compareAndSwap(change('a', 1, null))).toBe(true)
    // Its condition holds again by now, and still it must not come true.
    for (const arrive of client.late) expect(await arrive()).not.toMatchObject({ succeeded: true })
    expect(await store.get('a')).toBeNull()
  })

  it('is false when somebody else was first, even if that is learnt the hard way', async () => {
    const prefix = `/${randomUUID()}/`
    const client = new LossyClient([server.url])
    const store = new EtcdStore(settings(prefix), client)
    await new EtcdStore(settings(prefix)).compareAndSwap(change('a', 0, 'theirs'))
    client.fates = ['lost after', 'lost before']
    expect(await store.compareAndSwap(change('a', 0, 'ours'))).toBe(false)
    expect((await store.get('a'))?.value).toBe('theirs')
  })

  it('is an error while etcd stays away, and nothing is invented', async () => {
    const client = new LossyClient([server.url])
    const store = new EtcdStore(settings(), client)
    client.fates = ['lost before', 'lost before', 'lost before']
    await expect(store.compareAndSwap(change('a', 0, 1))).rejects.toThrow(/answer was lost/)
    expect(await store.get('a')).toBeNull()
    const nobody = new EtcdStore({ kind: 'etcd', endpoints: ['http://127.0.0.1:9'] })
    await expect(nobody.compareAndSwap(change('a', 0, 1))).rejects.toMatchObject({
      code: 'unavailable',
    })
  })
})

it('lists more records than one answer holds, as of one moment, in order', async () => {
  const store = new EtcdStore(settings())
  const keys = Array.from({ length: 1203 }, (_, index) => `r/${String(index).padStart(5, '0')}`)
  for (let at = 0; at < keys.length; at += 100) {
    const changes = keys
      .slice(at, at + 100)
      .map((key) => ({ key, expectedVersion: 0, value: { key } }))
    expect(await store.compareAndSwap(changes)).toBe(true)
  }
  expect((await store.range('r/')).map(({ key }) => key)).toEqual(keys)
  const all = keys.slice(0, 200).map((key) => ({ key, expectedVersion: 1, value: null }))
  await expect(store.compareAndSwap(all)).rejects.toThrow(/200 records cannot change at once/)
})

it('goes to another endpoint when one is down', async () => {
  const store = new EtcdStore({
    ...settings(),
    endpoints: [`http://127.0.0.1:${await freePort()}`, server.url],
  })
  expect(await store.compareAndSwap([{ key: 'a', expectedVersion: 0, value: 1 }])).toBe(true)
  expect((await store.get('a'))?.value).toBe(1)
})

describe('discovery by etcd', () => {
  const key = { tenantId: newTenantId(), timelineId: newTimelineId() }
  const message = (nodeId: number, flushLsn: number): DiscoveryMessage =>
    discoveryMessage(key, nodeId, flushLsn, { computeConnected: true, sentAtMs: Date.now() })

  function connect(prefix: string): { discovery: EtcdDiscovery; heard: DiscoveryFrame[] } {
    const discovery = new EtcdDiscovery(settings(prefix), log)
    const heard: DiscoveryFrame[] = []
    discovery.subscribe(null, (frame) => heard.push(frame))
    return { discovery, heard }
  }

  const eventually = (check: () => void) => vi.waitFor(check, { timeout: 60_000 })
  const last = (heard: DiscoveryFrame[]) => heard.at(-1)

  it('carries news and requests, tells newcomers the latest, forgets who left', async () => {
    const prefix = `/${randomUUID()}/`
    const [a, b] = [connect(prefix), connect(prefix)]
    await eventually(() => expect(a.discovery.connected && b.discovery.connected).toBe(true))
    a.discovery.publish([message(1, 100)])
    await eventually(() => expect(last(b.heard)).toMatchObject({ nodeId: 1, flushLsn: 100 }))
    b.discovery.request(key)
    await eventually(() => expect(last(a.heard)).toEqual({ kind: 'request', ...key }))
    a.discovery.publish([message(1, 108)])
    await eventually(() => expect(last(b.heard)).toMatchObject({ flushLsn: 108 }))

    const late = connect(prefix)
    await eventually(() => expect(last(late.heard)).toMatchObject({ nodeId: 1, flushLsn: 108 }))
    await a.discovery.close()
    const later = connect(prefix)
    await eventually(() => expect(later.discovery.connected).toBe(true))
    expect(later.heard.filter(({ kind }) => kind === 'message')).toEqual([])
    for (const { discovery } of [b, late, later]) await discovery.close()
  })

  it('writes what is new; the same again only so often that nobody takes us for dead', async () => {
    const prefix = `/${randomUUID()}/`
    const { discovery, heard } = connect(prefix)
    await eventually(() => expect(discovery.connected).toBe(true))
    const since = performance.now()
    for (let round = 0; round < 20; round += 1) {
      discovery.publish([message(1, 100)])
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    await eventually(() => expect(heard.length).toBeGreaterThan(0))
    const refreshes = Math.floor((performance.now() - since) / REFRESH_MS)
    expect(heard.length).toBeLessThanOrEqual(1 + refreshes)
    await discovery.close()
  })

  it('comes back by itself after etcd was away, behind a compaction too', async () => {
    const prefix = `/${randomUUID()}/`
    const { discovery, heard } = connect(prefix)
    await eventually(() => expect(discovery.connected).toBe(true))
    discovery.publish([message(1, 100)])
    await eventually(() => expect(last(heard)).toMatchObject({ flushLsn: 100 }))

    await server.stop()
    await eventually(() => expect(discovery.connected).toBe(false))
    discovery.publish([message(1, 104)])
    await server.start()
    const client = new EtcdClient([server.url])
    const { header } = await client.range('/')
    await client.call('/v3/kv/compaction', { revision: header.revision })
    await eventually(() => {
      discovery.publish([message(1, 200 + heard.length)])
      expect(last(heard)).toMatchObject({ nodeId: 1 })
      expect((last(heard) as DiscoveryMessage).flushLsn).toBeGreaterThan(200)
    })
    // What etcd says to a watch that asks for what was compacted away: no silence, an end.
    const answers: WatchAnswer[] = []
    const watch = client.watchPrefix('/', 1, {
      onAnswer: (answer) => answers.push(answer),
      onEnd: () => {},
    })
    await eventually(() => expect(answers.some(({ canceled }) => canceled)).toBe(true))
    watch.close()
    await discovery.close()
  })

  it('is not misled by keys that hold something else', async () => {
    const prefix = `/${randomUUID()}/`
    const client = new EtcdClient([server.url])
    const put = (name: string, text: string) =>
      client.call('/v3/kv/put', {
        key: Buffer.from(`${prefix}discovery/message/${name}`).toString('base64'),
        value: Buffer.from(text).toString('base64'),
      })
    await put('x', 'junk')
    const { discovery, heard } = connect(prefix)
    await eventually(() => expect(discovery.connected).toBe(true))
    await put('y', '\xff\xff\xff\xff more junk')
    discovery.publish([message(1, 100)])
    await eventually(() => expect(heard).toMatchObject([{ nodeId: 1 }]))
    await discovery.close()
  })
})

it('knows where the keys of a prefix end', () => {
  expect(prefixEnd('/zenith/')).toBe('/zenith0')
})
