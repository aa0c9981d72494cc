/**
 * Object storage in a real S3 server: the contract that every store keeps, and a whole installation
 * whose layers and WAL lie there, also while the way to it is cut.
 */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { callPageserver } from '#libs/api/pageserver.ts'
import { parseLsn } from '#libs/lsn.ts'
import { objectStoreContract } from '#libs/object-store/contract-suite.ts'
import { S3ObjectStore } from '#libs/object-store/s3-store.ts'
import { eventually } from '../fixtures/eventually.ts'
import { FaultProxy } from '../fixtures/fault-proxy.ts'
import { Installation } from '../fixtures/installation.ts'
import { S3Server } from '../fixtures/s3-server.ts'

const WAIT_MS = 60_000

let server: S3Server
beforeAll(async () => {
  server = await S3Server.start()
})
afterAll(async () => {
  await server?.[Symbol.asyncDispose]()
})

const someStore = () => new S3ObjectStore(server.config(randomBytes(8).toString('hex')))

objectStoreContract('S3', async () => someStore())

describe('an S3 object store', () => {
  test('takes and gives large files in parts, once', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'zenith-s3-file-'))
    try {
      const store = someStore()
      const content = randomBytes(70 * 1024 * 1024)
      writeFileSync(join(dir, 'large'), content)
      await store.putFile('large', join(dir, 'large'))
      expect(await store.size('large')).toBe(content.length)
      await store.getFile('large', join(dir, 'back'))
      expect(readFileSync(join(dir, 'back')).equals(content)).toBe(true)
      const middle = 32 * 1024 * 1024 - 5
      const range = await store.getRange('large', middle, 10)
      expect(range.equals(content.subarray(middle, middle + 10))).toBe(true)
      await expect(store.putFile('large', join(dir, 'large'))).rejects.toMatchObject({
        code: 'already_exists',
      })
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  test('lists more than one page, and deletes more than one request names', async () => {
    const store = someStore()
    const names = Array.from({ length: 1100 }, (_, n) => `many/${String(n).padStart(4, '0')}`)
    const waiting = [...names]
    const work = async () => {
      for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
        await store.put(name, Buffer.from(name))
      }
    }
    await Promise.all(Array.from({ length: 16 }, work))
    const listed = await store.list('many')
    expect(listed.objects.map(({ name }) => name)).toEqual(names)
    await store.deleteAll(names)
    expect(await store.list('')).toEqual({ objects: [], folders: [] })
  })

  test("does not take its own lost reply for another writer's object", async () => {
    await using proxy = await FaultProxy.start({ host: '127.0.0.1', port: server.port })
    const prefix = randomBytes(8).toString('hex')
    const store = new S3ObjectStore(server.config(prefix, proxy.port))
    const direct = new S3ObjectStore(server.config(prefix))
    proxy.stall('to-client')
    const put = store.put('once', Buffer.from('mine')).then(
      () => 'done',
      (error: { code: string }) => error.code,
    )
    await arrives(direct, 'once')
    proxy.cut()
    proxy.heal()
    // The second attempt is refused by the first: whoever put it compares, as the name is his.
    expect(await put).toBe('already_exists')
    expect((await direct.get('once')).toString()).toBe('mine')
  })

  test('says what is wrong with the bucket, or that nobody answers', async () => {
    const config = server.config('x')
    await expect(
      new S3ObjectStore({ ...config, bucket: 'no-such-bucket' }).check(),
    ).rejects.toThrow(/there is no bucket no-such-bucket/)
    await using proxy = await FaultProxy.start({ host: '127.0.0.1', port: server.port })
    const store = new S3ObjectStore(server.config('x', proxy.port))
    proxy.isolate()
    await expect(store.get('any')).rejects.toMatchObject({ code: 'unavailable' })
    proxy.heal()
    await expect(store.get('any')).rejects.toMatchObject({ code: 'not_found' })
  })
})

test('an installation keeps layers and WAL in S3, goes on while it is away, and comes back from it', async () => {
  await using proxy = await FaultProxy.start({ host: '127.0.0.1', port: server.port })
  const objectStore = server.config('whole', proxy.port)
  await using zenith = await Installation.create({
    objectStore,
    offload: { tail_after_s: 900, evict_after_s: 0, takeover_s: 1 },
  })
  const store = new S3ObjectStore(server.config('whole'))
  let main = await zenith.startCompute('main')
  await main.query(`CREATE TABLE thing AS SELECT g AS id, md5(g::text) AS note
    FROM generate_series(1, 20000) g`)
  await main.query('SELECT pg_switch_wal()')
  const timelineId = main.spec.timelineId
  const params = { tenantId: zenith.tenantId, timelineId }
  const url = zenith.pageserverUrl
  const checkpoint = () => callPageserver(url, 'checkpoint', { params, timeoutMs: WAIT_MS })
  await checkpoint()
  const layers = `tenants/${zenith.tenantId}/timelines/${timelineId}/layers`
  expect((await store.list(layers)).objects.length).toBeGreaterThan(0)
  const segments = `wal/${zenith.tenantId}/${timelineId}`
  await eventually(async () => (await store.list(segments)).objects.length > 0, 'a segment')

  proxy.isolate()
  const before = await callPageserver(url, 'getTimeline', { params })
  await main.query(`INSERT INTO thing SELECT g, md5(g::text) FROM generate_series(20001, 30000) g`)
  const uploaded = checkpoint().catch(() => null)
  expect(await main.value('SELECT count(*)::int FROM thing')).toBe(30_000)
  const during = await callPageserver(url, 'getTimeline', { params })
  expect(during.remoteConsistentLsn).toBe(before.remoteConsistentLsn)
  proxy.heal()
  await uploaded
  await checkpoint()
  const after = await callPageserver(url, 'getTimeline', { params })
  expect(parseLsn(after.remoteConsistentLsn)).toBeGreaterThan(parseLsn(before.remoteConsistentLsn))

  const checksum = `SELECT md5(string_agg(id || note, ',' ORDER BY id)) FROM thing`
  const expected = await main.value(checksum)
  await main.stop()
  await zenith.losePageserverDisk()
  await zenith.start()
  main = await zenith.startCompute('main')
  expect(await main.value(checksum)).toBe(expected)
})

async function arrives(store: S3ObjectStore, name: string): Promise<void> {
  await eventually(async () => (await store.size(name)) !== null, name)
}
