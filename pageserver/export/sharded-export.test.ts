/**
 * The archive of a sharded timeline is, byte by byte, that of the same timeline in one piece: over
 * real sockets, each shard with a page service of its own, with stripes of one block and more.
 */
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { createMetrics } from '#libs/metrics.ts'
import { serializeControlFile } from '#libs/pg/control-file.ts'
import { connectPgWire, type PgClient } from '#libs/pgwire/client.ts'
import type { PgWireServer } from '#libs/pgwire/server.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { FSM_FORK, INIT_FORK, VM_FORK } from '#libs/wal/format.ts'
import { encodeCheckpointState } from '../ingest/checkpoint-state.ts'
import { exampleControl } from '../ingest/testing/example-control.ts'
import { exampleState } from '../ingest/testing/example-state.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { createPageServiceMetrics } from '../page-service/metrics.ts'
import { servePages } from '../page-service/page-service.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'

const START: Lsn = exampleState.tipLsn
const LATER: Lsn = START + 0x100
const END: Lsn = START + 0x200
const FACTS = { startLsn: START, systemId: '7', pgVersion: 170011 }
const COUNT = 3
const DB = 5
const HUGE_BLOCKS = 60_000
const NOTHING = Buffer.alloc(0)

/** By relation: its forks, and their blocks. 16386 is unlogged, 16387 ends within a stripe. */
const FORKS: readonly [rel: number, fork: number, blocks: number][] = [
  [16384, 0, 0],
  [16385, 0, 1],
  [16386, 0, 9],
  [16386, INIT_FORK, 2],
  [16387, 0, 150],
  [16387, FSM_FORK, 3],
  [16387, VM_FORK, 1],
  [16388, 0, 128],
]

const timelineId = newTimelineId()
const log = pino({ level: 'silent' })
const servers: ScratchServer[] = []
const services: PgWireServer[] = []

beforeEach(() => vi.useFakeTimers({ toFake: ['Date'] }))
afterEach(async () => {
  vi.useRealTimers()
  for (const service of services.splice(0)) await service.close()
  for (const server of servers.splice(0)) await server.stop()
})

function word(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function pageOf(rel: number, fork: number, blk: number, round: number): Buffer {
  const page = Buffer.alloc(PAGE_SIZE)
  // A page with a header, so that it gets a checksum.
  page.writeUInt16LE(24, 12)
  page.writeUInt16LE(8000, 14)
  for (let at = 8000; at < PAGE_SIZE; at += 4) {
    page.writeUInt32LE((rel * 7919 + fork * 104_729 + blk * 31 + round + at) >>> 0, at)
  }
  return page
}

/** Everybody is given everything, as WAL would. */
function put(timeline: Timeline, lsn: Lsn, round: number): void {
  const blob = (cls: KeyClass, spc: number, db: number, rel: number, fork: number, value: Buffer) =>
    timeline.put(
      timeline.slot(cls, spc, db, rel, fork),
      0,
      lsn,
      ValueKind.Image,
      value,
      0,
      value.length,
    )
  for (const [rel, fork, blocks] of FORKS) {
    const slot = timeline.slot(KeyClass.RelBlock, 1663, DB, rel, fork)
    for (let blk = 0; blk < blocks; blk += 1) {
      if (round > 0 && blk % 3 > 0) continue
      // Some were skipped when the relation grew.
      if (blk % 10 === 7) timeline.put(slot, blk, lsn, ValueKind.ZeroPage, NOTHING, 0, 0)
      else {
        const page = pageOf(rel, fork, blk, round)
        timeline.put(slot, blk, lsn, ValueKind.Image, page, 0, PAGE_SIZE)
      }
    }
    // In the second round one is cut.
    const size = round > 0 && rel === 16388 ? 100 : blocks
    blob(KeyClass.RelSize, 1663, DB, rel, fork, word(size))
  }
  for (const [spc, db] of [
    [1663, DB],
    [1664, 0],
  ] as const) {
    blob(KeyClass.RelMap, spc, db, 0, 0, Buffer.alloc(524, db))
  }
  blob(KeyClass.SlruSegSize, 0, 0, 0, 0, word(1))
  const status = timeline.slot(KeyClass.SlruBlock, 0, 0, 0, 0)
  timeline.put(status, 0, lsn, ValueKind.Image, pageOf(1, 1, 1, round), 0, PAGE_SIZE)
  blob(KeyClass.ControlFile, 0, 0, 0, 0, serializeControlFile(exampleControl()))
  blob(KeyClass.Checkpoint, 0, 0, 0, 0, encodeCheckpointState(exampleState))
  timeline.publish(lsn, null)
}

/** A tenant over so many shards, each behind a port of its own; returns the ports. */
async function serve(stripeBlocks: number | null): Promise<number[]> {
  const shards = stripeBlocks === null ? undefined : { count: COUNT, stripeBlocks }
  const server = await ScratchServer.start({}, undefined, shards)
  servers.push(server)
  const ports: number[] = []
  for (const tenant of server.shards) {
    const timeline = await tenant.createTimeline(timelineId, FACTS, async (one) => {
      put(one, START, 0)
    })
    put(timeline, LATER, 1)
    await timeline.createImageLayers()
    put(timeline, END, 2)
    const service = await servePages({
      host: '127.0.0.1',
      port: 0,
      log,
      metrics: createPageServiceMetrics(createMetrics('test')),
      findTimeline: (tenantId, wanted) => {
        expect(tenantId).toBe(tenant.tenantId)
        return tenant.timeline(wanted)
      },
    })
    services.push(service)
    ports.push(service.port)
  }
  return ports
}

const last = () => servers.at(-1) as ScratchServer
const clientOf = (port: number | undefined): Promise<PgClient> =>
  connectPgWire({ port: port as number })

function commandFor(ports: readonly number[], verb: string, lsn: Lsn, more = ''): string {
  const sharded = ports.length > 1
  const tenantId = tenantShardId(last().tenantId, 0, ports.length)
  const list = ports.map((port) => `127.0.0.1:${port}`).join(',')
  return `${verb} ${tenantId} ${timelineId} ${formatLsn(lsn)}${more}${sharded ? ` shards=${list}` : ''}`
}

async function archiveOf(port: number | undefined, command: string): Promise<Buffer> {
  const client = await clientOf(port)
  try {
    return Buffer.concat(await Array.fromAsync(client.copyOut(command)))
  } finally {
    client.destroy()
  }
}

const LSNS = [END, START]
const KINDS = ['export', 'export checksums=on', 'fullbackup']

function commandsFor(ports: readonly number[]): string[] {
  return LSNS.flatMap((lsn) =>
    KINDS.map((kind) => {
      const [verb = '', more] = kind.split(' ')
      return commandFor(ports, verb, lsn, more === undefined ? '' : ` ${more}`)
    }),
  )
}

describe('full archives of a sharded timeline', () => {
  test('equal those of one in one piece, whatever the size of stripes', async () => {
    const expected: Buffer[] = []
    const whole = await serve(null)
    for (const command of commandsFor(whole)) expected.push(await archiveOf(whole[0], command))
    expect(new Set(expected.map((archive) => archive.toString('latin1'))).size).toBe(6)
    for (const stripe of [1, 7, 2048]) {
      const ports = await serve(stripe)
      for (const [index, command] of commandsFor(ports).entries()) {
        const archive = await archiveOf(ports[0], command)
        expect(archive.length).toBeGreaterThan(2_000_000)
        expect(archive.equals(expected[index] as Buffer), `${stripe}: ${command}`).toBe(true)
      }
    }
  })

  test('keep the LSN on every shard as long as they run, and no longer', async () => {
    const ports = await serve(4)
    const timelines = last().shards.map((tenant) => tenant.timeline(timelineId))
    // Zeros without end, so that no shard has sent all before the others' are taken.
    const newer = END + 8
    for (const timeline of timelines) {
      const slot = timeline.slot(KeyClass.RelSize, 1663, DB, 16388, 0)
      timeline.put(slot, 0, newer, ValueKind.Image, word(HUGE_BLOCKS), 0, 4)
      timeline.publish(newer, null)
      timeline.publish(newer + 8, null)
    }
    const client = await clientOf(ports[0])
    const archive = client.copyOut(commandFor(ports, 'export', newer), 1024)
    await archive.next()
    for (const timeline of timelines) {
      timeline.retention.raiseCutoff(newer + 8)
      expect(timeline.retainedPoints()).toContain(newer)
      await timeline.readPage(timeline.slot(KeyClass.RelBlock, 1663, DB, 16385, 0), 0, newer)
    }
    client.destroy()
    for (const timeline of timelines) {
      await vi.waitFor(() => expect(timeline.retainedPoints()).not.toContain(newer), 20_000)
    }
    await expect(archiveOf(ports[0], commandFor(ports, 'export', newer))).rejects.toThrow(
      /history of timeline .* is gone/,
    )
  })

  test('fail when a shard is missing or disagrees, before pg_control', async () => {
    const ports = await serve(4)
    const whole = await archiveOf(ports[0], commandFor(ports, 'export', END))
    const [first = 0, second = 0, third = 0] = ports
    const command = (list: number[]) => commandFor(list, 'export', END)
    const fewer = commandFor(ports, 'export', END).replace(/,127[^,]*$/, '')
    await expect(archiveOf(first, fewer)).rejects.toThrow('the tenant has 3')
    await expect(archiveOf(first, command([first, second, 1]))).rejects.toThrow(
      /shard 2 of 3 at 127.0.0.1:1/,
    )
    const without = commandFor(ports, 'export', END).replace(/ shards=.*/, '')
    await expect(archiveOf(first, without)).rejects.toThrow('needs all blocks')
    const other = commandFor(ports, 'export', END).replace('-0003', '-0103')
    await expect(archiveOf(second, other)).rejects.toThrow('is asked of shard 0')
    await expect(archiveOf(third, command(ports).replace('-0003', '-0203'))).rejects.toThrow(
      'is asked of shard 0',
    )

    const timeline = last().shards[2]?.timeline(timelineId) as Timeline
    const slot = timeline.slot(KeyClass.RelSize, 1663, DB, 16387, 0)
    const newer = END + 8
    for (const tenant of last().shards) {
      const one = tenant.timeline(timelineId)
      if (one === timeline) one.put(slot, 0, newer, ValueKind.Image, word(300), 0, 4)
      one.publish(newer, null)
    }
    const client = await clientOf(first)
    const received: Buffer[] = []
    await expect(
      (async () => {
        for await (const chunk of client.copyOut(commandFor(ports, 'export', newer))) {
          received.push(chunk)
        }
      })(),
    ).rejects.toThrow(/shard 2 of 3 at .*(should come|does not know)/)
    client.destroy()
    expect(Buffer.concat(received).includes('global/pg_control')).toBe(false)
    expect(whole.includes('global/pg_control')).toBe(true)
  })
})
