import { beforeEach, describe, expect, it } from 'vitest'
import { SLRU } from '#libs/pg/slru.ts'
import { RMGR, SLRU_INFO, XACT_HAS_INFO, XACT_INFO } from '#libs/wal/format.ts'
import { words } from '../../test_runner/fixtures/wal-builder.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import { checkpointAt } from './checkpoint-state.ts'
import { BuiltIngest, DB, FIRST_XID, REL, SPC } from '../../test_runner/fixtures/built-ingest.ts'
import { exampleState } from './testing/example-state.ts'

let built: BuiltIngest

beforeEach(() => {
  built = new BuiltIngest()
})

describe('transactions', () => {
  const status = (xid: number) => {
    const page = built.timeline.page(built.slot(KeyClass.SlruBlock, SLRU.xact, 0, 0), 0) as Buffer
    return ((page[xid >> 2] as number) >> ((xid & 3) * 2)) & 3
  }

  it('sets status of the transaction and its subtransactions, drops relations', async () => {
    built.insert(0, { init: true, xid: FIRST_XID })
    built.insert(0, { xid: FIRST_XID + 1 })
    const time = Buffer.alloc(8)
    const xinfo = 2 | 4
    const main = Buffer.concat([
      time,
      words(xinfo, 2, FIRST_XID + 1, FIRST_XID + 2, 1, SPC, DB, REL),
    ])
    built.record(RMGR.TRANSACTION, XACT_INFO.COMMIT | XACT_HAS_INFO, main, [], FIRST_XID)
    built.record(RMGR.TRANSACTION, XACT_INFO.ABORT, time, [], FIRST_XID + 3)
    built.record(RMGR.TRANSACTION, XACT_INFO.COMMIT, time, [], FIRST_XID + 4)
    await built.ingest()
    expect([0, 1, 2, 3, 4].map((n) => status(FIRST_XID + n))).toEqual([1, 1, 1, 2, 1])
    expect(built.size()).toBeUndefined()
    const { checkpoint } = await checkpointAt(built.timeline, built.timeline.lastRecordLsn)
    expect(checkpoint.nextXid).toBe(exampleState.checkpoint.nextXid + 5)
  })

  it('has nextXid above every transaction at every record end, with few writes', async () => {
    const ends: [number, number][] = []
    for (let index = 0; index < 200; index += 1) {
      const { endLsn } = built.insert(0, { init: index === 0, xid: FIRST_XID + index })
      ends.push([endLsn, exampleState.checkpoint.nextXid + index + 1])
    }
    await built.ingest([1000])
    for (const [lsn, least] of ends) {
      const { checkpoint } = await checkpointAt(built.timeline, lsn)
      expect(checkpoint.nextXid).toBeGreaterThanOrEqual(least)
      expect(checkpoint.nextXid).toBeLessThan(least + 40)
    }
    expect(built.timeline.versions(built.slot(KeyClass.Checkpoint), 0).length).toBeLessThan(50)
  })

  it('never lets nextXid point into a status page that does not exist yet', async () => {
    const page = Math.ceil(FIRST_XID / 32768)
    const boundary = page * 32768
    const before = built.insert(0, { init: true, xid: boundary - 1 })
    built.record(RMGR.CLOG, SLRU_INFO.ZEROPAGE, words(page, 0))
    built.insert(0, { xid: boundary + 5 })
    await built.ingest()
    const { checkpoint } = await checkpointAt(built.timeline, before.endLsn)
    expect(checkpoint.nextXid % 2 ** 32).toBe(boundary)
  })

  it('keeps the state file of a prepared transaction until it ends', async () => {
    const body = Buffer.alloc(80, 0)
    body.writeUInt32LE(FIRST_XID, 8)
    built.record(RMGR.TRANSACTION, XACT_INFO.PREPARE, body, [], FIRST_XID)
    const low = FIRST_XID
    await built.ingest()
    const twoPhase = built.slot(KeyClass.TwoPhase, 0, 5, low)
    expect(await built.timeline.readBlob(twoPhase, 0, built.timeline.lastRecordLsn)).toEqual(body)
    const main = Buffer.concat([Buffer.alloc(8), words(16, FIRST_XID)])
    built.record(RMGR.TRANSACTION, XACT_INFO.COMMIT_PREPARED | XACT_HAS_INFO, main)
    await built.ingest()
    expect(await built.timeline.readBlob(twoPhase, 0, built.timeline.lastRecordLsn)).toBeNull()
    expect(status(FIRST_XID)).toBe(1)
  })
})
