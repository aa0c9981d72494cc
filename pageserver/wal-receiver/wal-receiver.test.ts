import { randomBytes } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterEach, describe, expect, test } from 'vitest'
import { MemoryDiscovery } from '#libs/discovery/memory-discovery.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { type PgWireServer, servePgWire } from '#libs/pgwire/server.ts'
import type { PgSession } from '#libs/pgwire/session.ts'
import {
  decodeReceiverMessage,
  encodeKeepalive,
  type PageserverFeedback,
  writeWalDataHeader,
} from '#libs/protocol/wal-stream.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { WalReceiver } from './wal-receiver.ts'
import type { WalSink } from './wal-stream.ts'

const START = 0x1000000
const WAL = randomBytes(3_000_000)

/** Serves the first `committed` bytes of WAL as a safekeeper does. */
class ModelSafekeeper {
  readonly id: number
  committed = 0
  systemId = '77'
  readonly sessions = new Set<PgSession>()
  readonly feedback: PageserverFeedback[] = []
  readonly starts: number[] = []
  /** Requests for its status. */
  asked = 0
  computeConnected = false
  /** Its keepalives ask for an answer at once. */
  isCurious = true
  #wire!: PgWireServer
  #http!: Server

  constructor(id: number) {
    this.id = id
  }

  async listen(): Promise<this> {
    this.#wire = await servePgWire({
      host: '127.0.0.1',
      port: 0,
      log: pino({ level: 'silent' }),
      onSession: (session) => this.#session(session),
    })
    this.#http = createServer((_request, response) => {
      this.asked += 1
      response.setHeader('content-type', 'application/json')
      response.end(
        JSON.stringify({
          commitLsn: formatLsn(START + this.committed),
          computeConnected: this.computeConnected,
          remoteConsistentLsn: formatLsn(this.feedback.at(-1)?.remoteConsistentLsn ?? START),
        }),
      )
    })
    await new Promise<void>((done) => this.#http.listen(0, '127.0.0.1', done))
    return this
  }

  get node() {
    const { port } = this.#http.address() as AddressInfo
    return { id: this.id, host: '127.0.0.1', pgPort: this.#wire.port, httpPort: port }
  }

  async close(): Promise<void> {
    for (const session of this.sessions) session.socket.destroy()
    this.#http.closeAllConnections()
    await Promise.all([this.#wire.close(), new Promise((done) => this.#http.close(done))])
  }

  async #session(session: PgSession): Promise<void> {
    this.sessions.add(session)
    for (let query = await session.nextQuery(); query; query = await session.nextQuery()) {
      if (query === 'IDENTIFY_SYSTEM') {
        session.sendRowDescription([{ name: 'systemid' }])
        session.sendDataRow([this.systemId])
        session.sendCommandComplete('IDENTIFY_SYSTEM')
        session.sendReadyForQuery()
        continue
      }
      const lsn = parseLsn(query.split(' ').at(-1) as string)
      this.starts.push(lsn)
      await this.#stream(session, lsn - START)
    }
    this.sessions.delete(session)
  }

  async #stream(session: PgSession, from: number): Promise<void> {
    let at = from
    let open = true
    session.startCopyBoth(
      (payload) => {
        const message = decodeReceiverMessage(payload)
        if (message.kind === 'pageserver-feedback') this.feedback.push(message.feedback)
      },
      () => {
        open = false
      },
    )
    while (open) {
      const end = Math.min(this.committed, at + 1 + Math.floor(Math.random() * 131072))
      const walEndLsn = START + this.committed
      if (end > at) {
        const header = Buffer.alloc(25)
        writeWalDataHeader(header, { startLsn: START + at, walEndLsn, sentAtUs: 0 })
        if (!session.sendCopyData(header, WAL.subarray(at, end))) await session.drained()
        at = end
      } else {
        session.sendCopyData(encodeKeepalive(walEndLsn, 0, this.isCurious))
        await sleep(5)
      }
    }
  }
}

/** Takes bytes in and tells how far it is; fails at `poison` bytes. */
class ModelTimeline {
  readonly systemId = '77'
  lastRecordLsn = START
  diskConsistentLsn = START
  remoteConsistentLsn = START
  received: Buffer = Buffer.alloc(0)
  poison = Number.POSITIVE_INFINITY
  slowMs = 0
  flushes = 0

  dropUnpublished = (): void => {}
  noteCommitted = (): void => {}

  flush = (): Promise<void> => {
    this.flushes += 1
    this.diskConsistentLsn = this.lastRecordLsn
    this.remoteConsistentLsn = this.lastRecordLsn
    return Promise.resolve()
  }

  openSink = async (): Promise<WalSink> => {
    // Whatever lies behind the last whole record is forgotten, as by a reopened ingest.
    this.received = this.received.subarray(0, this.lastRecordLsn - START)
    const { received } = this
    const sink = { nextLsn: START + received.length, ingest: async () => {} } as {
      nextLsn: number
      ingest: WalSink['ingest']
    }
    sink.ingest = async (chunk, startLsn) => {
      expect(startLsn).toBe(sink.nextLsn)
      if (this.slowMs > 0) await sleep(this.slowMs)
      const good = chunk.subarray(0, Math.max(0, this.poison - this.received.length))
      this.received = Buffer.concat([this.received, good])
      sink.nextLsn += good.length
      this.lastRecordLsn = START + this.received.length - (this.received.length % 1000)
      if (good.length < chunk.length) throw new Error('bad record')
    }
    return sink
  }
}

const closing: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close()
})

async function safekeeper(id: number): Promise<ModelSafekeeper> {
  const model = await new ModelSafekeeper(id).listen()
  closing.push(() => model.close())
  return model
}

function receive(
  timeline: ModelTimeline,
  safekeepers: ModelSafekeeper[],
  discovery: MemoryDiscovery | null = null,
  firstAskMs = 0,
) {
  const broken: string[] = []
  const key = { tenantId: newTenantId(), timelineId: newTimelineId() }
  const receiver = new WalReceiver({
    ...key,
    discovery,
    timeline: timeline as unknown as Timeline,
    openSink: timeline.openSink,
    safekeepers: safekeepers.map((one) => one.node),
    log: pino({ level: 'silent' }),
    metrics: { countBytes: () => {} },
    onBroken: (reason) => broken.push(reason),
    onRepaired: () => broken.push('repaired'),
    // Longer than a busy machine may hold up a test that looks at what is before it.
    firstRepairMs: 600,
    firstAskMs,
  })
  closing.push(() => receiver.stop())
  receiver.start()
  const tell = (nodeId: number, bytes: number, sentAtMs = 1) =>
    discovery?.publish([
      {
        ...key,
        nodeId,
        generation: 1,
        term: 1,
        lastLogTerm: 1,
        flushLsn: START + bytes,
        commitLsn: START + bytes,
        backupLsn: START,
        remoteConsistentLsn: START,
        peerHorizonLsn: START,
        localStartLsn: START,
        standbyHorizonLsn: null,
        host: 'elsewhere',
        pgPort: 1,
        httpPort: 1,
        computeConnected: false,
        sentAtMs,
      },
    ])
  return { receiver, broken, tell }
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let waited = 0; !condition(); waited += 5) {
    if (waited > 8000) throw new Error(`waited in vain for: ${what}`)
    await sleep(5)
  }
}

const got = (timeline: ModelTimeline, bytes: number) => () => timeline.received.length >= bytes

describe('WAL receiver', () => {
  test('takes all bytes in, in order, from the furthest safekeeper, and tells its positions', async () => {
    const [behind, ahead] = [await safekeeper(1), await safekeeper(2)]
    behind.committed = 1000
    ahead.committed = WAL.length
    const timeline = new ModelTimeline()
    const { receiver } = receive(timeline, [behind, ahead])
    await until(got(timeline, WAL.length), 'all WAL')
    expect(timeline.received.equals(WAL)).toBe(true)
    expect(receiver.info()).toMatchObject({ state: 'streaming', safekeeperId: 2, reconnects: 0 })
    timeline.diskConsistentLsn = START + 5000
    timeline.remoteConsistentLsn = START + 5000
    await until(() => ahead.feedback.at(-1)?.remoteConsistentLsn === START + 5000, 'feedback')
    expect(ahead.feedback.at(-1)?.lastReceivedLsn).toBe(timeline.lastRecordLsn)
    expect(behind.starts).toEqual([])
  })

  test('what trickles in is answered each 50 ms, not piece by piece', async () => {
    const only = await safekeeper(1)
    only.isCurious = false
    only.committed = 1000
    const timeline = new ModelTimeline()
    receive(timeline, [only])
    await until(got(timeline, 1000), 'the first piece')
    const [pieces, begun, before] = [200, performance.now(), only.feedback.length]
    for (let piece = 1; piece <= pieces; piece++) {
      // Each moves the position that is told.
      only.committed += 1000
      await until(got(timeline, only.committed), `piece ${piece}`)
    }
    const answers = only.feedback.length - before
    expect(answers).toBeLessThanOrEqual((performance.now() - begun) / 50 + 2)
    expect(answers).toBeGreaterThan(2)
    // And at last what all of them came to.
    const told = () => only.feedback.at(-1)?.lastReceivedLsn === timeline.lastRecordLsn
    await until(told, 'the last position')
  })

  test('goes on elsewhere, from its last whole record, when the safekeeper dies', async () => {
    const [first, second] = [await safekeeper(1), await safekeeper(2)]
    first.committed = 1_500_500
    second.committed = 1_400_000
    const timeline = new ModelTimeline()
    const { receiver } = receive(timeline, [first, second])
    await until(got(timeline, 1_500_500), 'the first part')
    second.committed = WAL.length
    await first.close()
    closing.splice(0, 1)
    await until(got(timeline, WAL.length), 'the rest')
    expect(timeline.received.equals(WAL)).toBe(true)
    expect(second.starts[0]).toBe(START + 1_500_000)
    expect(receiver.info().reconnects).toBe(1)
  })

  test('survives a cut connection', async () => {
    const only = await safekeeper(1)
    only.committed = 1_000_000
    const timeline = new ModelTimeline()
    receive(timeline, [only])
    await until(got(timeline, 500_000), 'some WAL')
    for (const session of only.sessions) session.socket.destroy()
    only.committed = WAL.length
    await until(got(timeline, WAL.length), 'the rest')
    expect(timeline.received.equals(WAL)).toBe(true)
  })

  test('rests the socket while ingest is slow', async () => {
    const only = await safekeeper(1)
    only.committed = WAL.length
    const timeline = new ModelTimeline()
    timeline.slowMs = 5
    receive(timeline, [only])
    await until(got(timeline, WAL.length), 'all WAL')
    expect(timeline.received.equals(WAL)).toBe(true)
  })

  test('WAL that cannot be taken in breaks the timeline, until it goes in', async () => {
    const only = await safekeeper(1)
    only.committed = WAL.length
    const timeline = new ModelTimeline()
    timeline.poison = 1_000_000
    const { receiver, broken } = receive(timeline, [only])
    await until(() => receiver.info().state === 'broken', 'the break')
    for (let nudge = 0; nudge < 10; nudge += 1) receiver.nudge()
    await sleep(50)
    expect(only.starts).toHaveLength(1)
    await until(() => broken.length === 2, 'another try')
    expect(only.starts[1]).toBe(timeline.lastRecordLsn)
    expect(receiver.info()).toMatchObject({
      state: 'broken',
      lastError: expect.stringMatching('bad record'),
      lagBytes: WAL.length - timeline.poison,
    })
    expect(receiver.info().lagMs).toBeGreaterThan(50)
    timeline.poison = Number.POSITIVE_INFINITY
    await until(got(timeline, WAL.length), 'all WAL after all')
    await until(() => broken.length === 3, 'the repair')
    expect(broken.map((reason) => reason.replace(/.*: /, ''))).toEqual([
      'bad record',
      'bad record',
      'repaired',
    ])
    expect(receiver.info()).toMatchObject({ state: 'streaming', lastError: null, lagMs: 0 })
  })

  test('refuses WAL of another system', async () => {
    const only = await safekeeper(1)
    only.committed = 1000
    only.systemId = '78'
    const timeline = new ModelTimeline()
    const { receiver } = receive(timeline, [only])
    await until(() => receiver.info().lastError?.includes('system 78') === true, 'the refusal')
    expect(timeline.received.length).toBe(0)
  })

  test('of a timeline that is just being made it asks later, unless somebody needs it', async () => {
    const timeline = new ModelTimeline()
    const one = await safekeeper(1)
    const { receiver } = receive(timeline, [one], null, 60_000)
    await sleep(100)
    expect(one.asked).toBe(0)
    one.committed = 100_000
    receiver.nudge()
    await until(got(timeline, 100_000), 'WAL')
  })

  test('waits without a connection while there is nothing, and a nudge makes it look', async () => {
    const only = await safekeeper(1)
    const timeline = new ModelTimeline()
    const { receiver } = receive(timeline, [only])
    await until(() => receiver.info().state === 'waiting', 'waiting')
    expect(only.starts).toEqual([])
    only.committed = 4000
    receiver.nudge()
    await until(got(timeline, 4000), 'WAL')
  })

  test('connects to tell how far object storage is, even without new WAL', async () => {
    const only = await safekeeper(1)
    const timeline = new ModelTimeline()
    const { receiver } = receive(timeline, [only])
    await until(() => receiver.info().state === 'waiting', 'waiting')
    timeline.lastRecordLsn = START + 8
    timeline.diskConsistentLsn = START + 8
    timeline.remoteConsistentLsn = START + 8
    receiver.nudge()
    await until(() => only.feedback.at(-1)?.remoteConsistentLsn === START + 8, 'feedback')
  })

  test('a new list moves the stream', async () => {
    const [first, second] = [await safekeeper(1), await safekeeper(2)]
    first.committed = 10_000
    const timeline = new ModelTimeline()
    const { receiver } = receive(timeline, [first])
    await until(got(timeline, 10_000), 'the first part')
    second.committed = 20_000
    receiver.setSafekeepers([second.node])
    await until(got(timeline, 20_000), 'the rest')
    expect(receiver.info().safekeeperId).toBe(2)
    expect(timeline.received.equals(WAL.subarray(0, 20_000))).toBe(true)
  })

  test('news wakes it at once, and while there is none it asks no more', async () => {
    const [first, second] = [await safekeeper(1), await safekeeper(2)]
    const timeline = new ModelTimeline()
    const { receiver, tell } = receive(timeline, [first, second], new MemoryDiscovery())
    await until(() => receiver.info().state === 'waiting', 'waiting')
    second.committed = 4000
    await sleep(2500)
    expect([first.asked, second.asked]).toEqual([1, 1])
    expect(timeline.received).toHaveLength(0)
    tell(2, 4000)
    await until(got(timeline, 4000), 'WAL')
    expect(receiver.info().safekeeperId).toBe(2)
    expect([first.asked, second.asked]).toEqual([1, 1])
  })

  test('without news, since discovery is away, it asks as if there were none', async () => {
    const only = await safekeeper(1)
    const timeline = new ModelTimeline()
    const discovery = new MemoryDiscovery()
    discovery.connected = false
    const { receiver } = receive(timeline, [only], discovery)
    await until(() => receiver.info().state === 'waiting', 'waiting')
    only.committed = 4000
    await until(got(timeline, 4000), 'WAL')
  })

  test('forged news costs a look, never WAL: a working stream stays, a false one is left', async () => {
    const [honest, praised] = [await safekeeper(1), await safekeeper(2)]
    const timeline = new ModelTimeline()
    const { receiver, tell } = receive(timeline, [honest, praised], new MemoryDiscovery())
    await until(() => receiver.info().state === 'waiting', 'waiting')
    // It has nothing, whatever is said of it; the other one has all there is.
    honest.committed = 8000
    honest.computeConnected = true
    tell(2, 2 ** 50, 2 ** 50)
    tell(3, 2 ** 50)
    await until(() => praised.starts.length === 1, 'the false one')
    for (const session of praised.sessions) session.socket.destroy()
    await until(got(timeline, 8000), 'WAL from the other')
    expect(receiver.info().safekeeperId).toBe(1)
    const lies = setInterval(() => tell(2, 2 ** 50, 2 ** 50), 100)
    closing.push(async () => clearInterval(lies))
    await sleep(6500)
    expect(receiver.info().safekeeperId).toBe(1)
    expect(honest.starts).toHaveLength(1)
  })

  test('ahead of the safekeeper it came to after a restart, it goes to one that has more', async () => {
    const [behind, ahead] = [await safekeeper(1), await safekeeper(2)]
    const timeline = new ModelTimeline()
    timeline.received = Buffer.from(WAL.subarray(0, 1_000_000))
    timeline.lastRecordLsn = START + 1_000_000
    behind.committed = 400_000
    behind.computeConnected = true
    ahead.committed = 1_000_000
    const discovery = new MemoryDiscovery()
    const { receiver, tell } = receive(timeline, [behind, ahead], discovery)
    await until(() => receiver.info().state === 'streaming', 'a stream')
    expect(receiver.info().safekeeperId).toBe(2)
    // The one it has stops getting WAL, the other one overtakes.
    ahead.computeConnected = false
    behind.committed = WAL.length
    const news = setInterval(() => {
      tell(1, behind.committed)
      tell(2, ahead.committed)
    }, 100)
    closing.push(async () => clearInterval(news))
    for (let waited = 0; timeline.received.length < WAL.length && waited < 25_000; waited += 50) {
      await sleep(50)
    }
    expect(timeline.received.equals(WAL)).toBe(true)
    expect(receiver.info()).toMatchObject({ safekeeperId: 1, reconnects: 1 })
  }, 40_000)
})
