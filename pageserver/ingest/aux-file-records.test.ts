import { beforeEach, expect, it } from 'vitest'
import { HEAP2_INFO, RMGR } from '#libs/wal/format.ts'
import { MemoryTimeline } from '../../test_runner/fixtures/memory-timeline.ts'
import { buildPayload, WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { auxFileEntries } from '../basebackup/aux-file-entries.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { encodeCheckpointState } from './checkpoint-state.ts'
import { exampleState } from './testing/example-state.ts'
import { WalIngest } from './wal-ingest.ts'

const START = 0x4000000 + 64

let timeline: MemoryTimeline
let wal: WalBuilder

beforeEach(() => {
  timeline = new MemoryTimeline(START)
  wal = new WalBuilder(START)
  const state = encodeCheckpointState(exampleState)
  const slot = timeline.slot(KeyClass.Checkpoint, 0, 0, 0, 0)
  timeline.put(slot, 0, START, ValueKind.Image, state, 0, state.length)
})

function message(prefix: string, body: Buffer, database = 0): void {
  const header = Buffer.alloc(24)
  header.writeUInt32LE(database, 0)
  header.writeBigUInt64LE(BigInt(prefix.length + 1), 8)
  header.writeBigUInt64LE(BigInt(body.length), 16)
  const main = Buffer.concat([header, Buffer.from(`${prefix}\0`), body])
  wal.append(RMGR.LOGICAL_MESSAGE, 0, 0, buildPayload({ blocks: [], main }))
}

function file(flag: 'P' | 'D', path: string, content = ''): void {
  const head = Buffer.from([flag.charCodeAt(0), path.length, 0])
  message('zenith-file', Buffer.concat([head, Buffer.from(path + content)]))
}

function mapping(offset: number, fill: number, count: number): void {
  const main = Buffer.alloc(40 + count * 36, fill)
  main.fill(0, 0, 40)
  main.writeUInt32LE(0x2ab, 0)
  main.writeUInt32LE(5, 4)
  main.writeUInt32LE(1259, 8)
  main.writeBigUInt64LE(BigInt(offset), 16)
  main.writeUInt32LE(count, 24)
  main.writeBigUInt64LE(0x1_0abc_def8n, 32)
  wal.append(RMGR.HEAP2, HEAP2_INFO.REWRITE, 0x2ac, buildPayload({ blocks: [], main }))
}

/** What a base backup at the end would hold. */
async function backedUp(): Promise<Record<string, string>> {
  const walIngest = await WalIngest.open(timeline)
  await walIngest.ingest(wal.bytes().subarray(timeline.lastRecordLsn - START), walIngest.nextLsn)
  const entries = await auxFileEntries(timeline as unknown as Timeline, timeline.lastRecordLsn)
  return Object.fromEntries(
    entries.map((entry) => [
      entry.name,
      entry.type === 'file' ? entry.content.toString('latin1') : entry.type,
    ]),
  )
}

it('keeps the newest contents of each path, with the folders that it needs', async () => {
  file('P', 'zenith/slots/one', 'old')
  file('P', 'pg_stat/pgstat.stat', 'numbers')
  file('P', 'zenith/slots/one', 'new')
  file('P', 'zenith/empty')
  expect(await backedUp()).toEqual({
    zenith: 'directory',
    'zenith/slots': 'directory',
    'pg_stat/pgstat.stat': 'numbers',
    'zenith/slots/one': 'new',
    'zenith/empty': '',
  })
})

it('forgets deleted files and takes in ones of the same name again', async () => {
  file('P', 'a', '1')
  file('P', 'b', '1')
  file('D', 'a')
  file('D', 'b')
  file('D', 'never there')
  file('P', 'b', '2')
  expect(await backedUp()).toEqual({ b: '2' })
})

it('passes over messages of users, whatever they hold', async () => {
  message('', Buffer.alloc(0))
  message('zenith-fil', Buffer.from('P'))
  message('zenith-files', Buffer.from('P\x00\x00'))
  message('zenith-file', Buffer.from('P\x01\x00x'), 5)
  message('mine', Buffer.from('P\x01\x00x'))
  expect(await backedUp()).toEqual({})
})

it('joins the pieces of a mapping under the name that Postgres gives it', async () => {
  mapping(0, 65, 2)
  mapping(72, 66, 1)
  expect(await backedUp()).toEqual({
    'pg_logical/mappings/map-5-4eb-1_ABCDEF8-2ab-2ac': 'A'.repeat(72) + 'B'.repeat(36),
  })
})

it('refuses a file message that makes no sense', async () => {
  message('zenith-file', Buffer.from('X\x01\x00x'))
  await expect(backedUp()).rejects.toMatchObject({ code: 'corrupt' })
})
