import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { createMetrics } from '#libs/metrics.ts'
import { connectPgWire, type PgClient } from '#libs/pgwire/client.ts'
import type { PgWireServer } from '#libs/pgwire/server.ts'
import {
  decodeResponse,
  encodeRequest,
  LATEST_LSN,
  PAGE_SIZE,
  type PageStreamRequest,
  type PageStreamResponse,
} from '#libs/protocol/page-stream.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { createPageServiceMetrics } from './metrics.ts'
import { servePages } from './page-service.ts'

const SIZE_BLOCKS = 5000
const DAMAGED_BLOCK = 77

/** A relation 1 of 5000 blocks, each filled with its number; reads take random times. */
class ModelTimeline {
  readonly timelineId = newTimelineId()
  readonly shard = null
  readonly startLsn = 1000
  lastRecordLsn = 2000
  reads = 0
  readonly #slots: number[][] = []

  slot(...key: number[]): number {
    return this.#slots.push(key) - 1
  }

  async relSize(_spc: number, _db: number, rel: number): Promise<number | null> {
    return rel === 1 ? SIZE_BLOCKS : null
  }

  async readPages(
    _slot: number,
    firstBlock: number,
    count: number,
    _lsn: number,
    pages: Buffer = Buffer.alloc(count * PAGE_SIZE),
  ): Promise<Buffer> {
    this.reads += 1
    await sleep(Math.random() * 3)
    for (let index = 0; index < count; index += 1) {
      const block = firstBlock + index
      if (block === DAMAGED_BLOCK) throw new ZenithError('corrupt', 'block 77 is damaged')
      pages.fill(block % 251, index * PAGE_SIZE, (index + 1) * PAGE_SIZE)
    }
    return pages
  }

  async waitForLsn(lsn: number): Promise<void> {
    while (this.lastRecordLsn < lsn) await sleep(1)
  }
}

const timeline = new ModelTimeline()
const tenantId = newTenantId()
const log = pino({ level: 'silent' })
let server: PgWireServer

beforeAll(async () => {
  server = await servePages({
    host: '127.0.0.1',
    port: 0,
    log,
    metrics: createPageServiceMetrics(createMetrics('test')),
    findTimeline: (wantedTenant, wantedTimeline) => {
      if (wantedTenant !== tenantId || wantedTimeline !== timeline.timelineId) {
        throw new ZenithError('not_found', `no timeline ${wantedTimeline}`)
      }
      return timeline as unknown as Timeline
    },
  })
})
afterAll(() => server.close())

class Stream {
  readonly client: PgClient
  readonly replies: PageStreamResponse[] = []

  constructor(client: PgClient) {
    this.client = client
  }

  static async open(): Promise<Stream> {
    const client = await connectPgWire({ port: server.port })
    const stream = new Stream(client)
    await client.startCopyBoth(
      `pagestream ${tenantId} ${timeline.timelineId}`,
      (payload) => stream.replies.push(decodeResponse(Buffer.from(payload))),
      () => {},
    )
    return stream
  }

  async replied(count: number): Promise<PageStreamResponse[]> {
    while (this.replies.length < count) await sleep(1)
    return this.replies
  }
}

const getpage = (id: number, firstBlock: number, count = 1, rel = 1): PageStreamRequest => ({
  kind: 'getpage',
  requestId: BigInt(id),
  requestLsn: LATEST_LSN,
  notModifiedSince: 1500,
  spc: 1663,
  db: 5,
  rel,
  fork: 0,
  firstBlock,
  count,
})

describe('page service', () => {
  test('thousands of pipelined requests are answered in order, each with its own pages', async () => {
    const stream = await Stream.open()
    const requests = Array.from({ length: 3000 }, (_, id) =>
      getpage(id, id % 3 === 0 ? (id * 7919) % 4900 : id, 1 + (id % 5)),
    ).filter((one) => one.kind === 'getpage' && !touches(one.firstBlock, one.count))
    for (const request of requests) stream.client.sendCopyData(encodeRequest(request))
    const replies = await stream.replied(requests.length)
    replies.forEach((reply, index) => {
      const request = requests[index]
      if (request?.kind !== 'getpage' || reply.kind !== 'getpage') throw new Error('wrong kind')
      expect(reply.requestId).toBe(request.requestId)
      expect(reply.pages.length).toBe(request.count)
      reply.pages.forEach((page, block) => {
        const number = request.firstBlock + block
        expect(page[17]).toBe(number < SIZE_BLOCKS ? number % 251 : 0)
      })
    })
    stream.client.destroy()
  })

  test('runs of blocks are read together', async () => {
    const stream = await Stream.open()
    const before = timeline.reads
    const frames = Array.from({ length: 128 }, (_, id) => getpage(id, 1000 + id))
    stream.client.socket.cork()
    for (const frame of frames) stream.client.sendCopyData(encodeRequest(frame))
    stream.client.socket.uncork()
    await stream.replied(128)
    expect(timeline.reads - before).toBeLessThan(10)
    stream.client.destroy()
  })

  test('blocks past the end and of unknown relations are zeros', async () => {
    const stream = await Stream.open()
    stream.client.sendCopyData(encodeRequest(getpage(1, SIZE_BLOCKS - 1, 2)))
    stream.client.sendCopyData(encodeRequest(getpage(2, 3, 1, 99)))
    const [straddling, unknown] = await stream.replied(2)
    if (straddling?.kind !== 'getpage' || unknown?.kind !== 'getpage') throw new Error('kind')
    expect(straddling.pages.map((page) => page[0])).toEqual([(SIZE_BLOCKS - 1) % 251, 0])
    expect(unknown.pages.map((page) => page[0])).toEqual([0])
    stream.client.destroy()
  })

  test('a damaged page fails its own request only', async () => {
    const stream = await Stream.open()
    for (let id = 70; id < 80; id += 1) stream.client.sendCopyData(encodeRequest(getpage(id, id)))
    const replies = await stream.replied(10)
    expect(replies.map((reply) => reply.kind)).toEqual(
      Array.from({ length: 10 }, (_, index) => (index === 7 ? 'error' : 'getpage')),
    )
    expect(replies[7]).toMatchObject({ sqlState: 'XX001', message: 'block 77 is damaged' })
    stream.client.destroy()
  })

  test('frames that cannot be decoded are answered, and the stream goes on', async () => {
    const stream = await Stream.open()
    stream.client.sendCopyData(encodeRequest(getpage(1, 1)))
    stream.client.sendCopyData(encodeRequest(getpage(2, 1)).subarray(0, 30))
    stream.client.sendCopyData(encodeRequest(getpage(3, 1, 65)))
    stream.client.sendCopyData(
      encodeRequest({ ...getpage(4, 1), notModifiedSince: LATEST_LSN - 1, requestLsn: 5 }),
    )
    stream.client.sendCopyData(
      encodeRequest({ ...getpage(5, 1), notModifiedSince: 0, requestLsn: 999 }),
    )
    stream.client.sendCopyData(encodeRequest({ ...getpage(6, 1, 1, 9), kind: 'nblocks' } as never))
    stream.client.sendCopyData(encodeRequest(getpage(7, 1)))
    const replies = await stream.replied(7)
    expect(replies.map((reply) => Number(reply.requestId))).toEqual([1, 2, 3, 4, 5, 6, 7])
    expect(replies.map((reply) => (reply.kind === 'error' ? reply.sqlState : reply.kind))).toEqual([
      'getpage',
      '22023',
      '22023',
      '22023',
      '22003',
      '42P01',
      'getpage',
    ])
    stream.client.destroy()
  })

  test('a request waits for WAL that it depends on; those behind it keep their order', async () => {
    const stream = await Stream.open()
    stream.client.sendCopyData(encodeRequest({ ...getpage(1, 1), notModifiedSince: 3000 }))
    stream.client.sendCopyData(encodeRequest(getpage(2, 2)))
    await sleep(30)
    expect(stream.replies).toEqual([])
    timeline.lastRecordLsn = 3000
    const replies = await stream.replied(2)
    expect(replies.map((reply) => Number(reply.requestId))).toEqual([1, 2])
    expect(replies[0]?.lsn).toBe(3000)
    stream.client.destroy()
  })

  test('a client that leaves in the middle harms nobody', async () => {
    const leaving = await Stream.open()
    for (let id = 0; id < 500; id += 1) leaving.client.sendCopyData(encodeRequest(getpage(id, id)))
    leaving.client.destroy()
    const stream = await Stream.open()
    stream.client.sendCopyData(encodeRequest(getpage(1, 1)))
    expect((await stream.replied(1))[0]?.kind).toBe('getpage')
    stream.client.destroy()
  })

  test('other queries and unknown timelines are refused, and the session goes on', async () => {
    const client = await connectPgWire({ port: server.port })
    await expect(client.query('SELECT 1')).rejects.toThrow('not a command of the page service')
    await expect(client.query(`pagestream ${tenantId} ${newTimelineId()}`)).rejects.toThrow(
      'no timeline',
    )
    await expect(client.query('IDENTIFY_SYSTEM')).rejects.toThrow('not a command')
    client.destroy()
  })
})

function touches(firstBlock: number, count: number): boolean {
  return firstBlock <= DAMAGED_BLOCK && DAMAGED_BLOCK < firstBlock + count
}
