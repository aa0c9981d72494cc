import { beforeEach, describe, expect, it } from 'vitest'
import { PAGE_SIZE } from '#libs/pg/page.ts'
import { DATABASE_INFO, RMGR, TABLESPACE_INFO, XLOG_INFO } from '#libs/wal/format.ts'
import { words } from '../../test_runner/fixtures/wal-builder.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import { BuiltIngest, DB, heapBlock, REL, SPC } from '../../test_runner/fixtures/built-ingest.ts'

const EMPTY = Buffer.alloc(0)

let built: BuiltIngest

beforeEach(() => {
  built = new BuiltIngest()
})

describe('databases', () => {
  it('copies relations, map and sizes, and drops them', async () => {
    const map = Buffer.alloc(524, 3)
    built.putBlob(KeyClass.RelMap, map, SPC, DB)
    const image = { bytes: Buffer.alloc(PAGE_SIZE, 9) }
    built.record(RMGR.XLOG, XLOG_INFO.FPI, EMPTY, [heapBlock(0, { data: EMPTY, image })])
    built.record(RMGR.DATABASE, DATABASE_INFO.CREATE_FILE_COPY, words(77, SPC, DB, SPC))
    await built.ingest()
    const copy = built.slot(KeyClass.RelBlock, SPC, 77, REL)
    expect(
      built.timeline
        .page(copy, 0)
        ?.subarray(8)
        .every((byte) => byte === 9),
    ).toBe(true)
    expect(await built.timeline.blob(KeyClass.RelMap, SPC, 77)).toEqual(map)
    expect(await built.timeline.blob(KeyClass.DbDir)).toEqual(words(SPC, 77))
    built.record(RMGR.DATABASE, DATABASE_INFO.DROP, words(77, 1, SPC))
    await built.ingest()
    expect(await built.timeline.blob(KeyClass.RelMap, SPC, 77)).toBeNull()
    expect(await built.timeline.blob(KeyClass.RelSize, SPC, 77, REL)).toBeNull()
    expect(await built.timeline.blob(KeyClass.DbDir)).toEqual(EMPTY)
  })
})

describe('tablespaces', () => {
  it('are noted with their location, and forgotten', async () => {
    const location = Buffer.from('/srv/fast\0')
    built.record(RMGR.TABLESPACE, TABLESPACE_INFO.CREATE, Buffer.concat([words(16400), location]))
    built.record(
      RMGR.TABLESPACE,
      TABLESPACE_INFO.CREATE,
      Buffer.concat([words(16401), Buffer.alloc(1)]),
    )
    await built.ingest()
    expect(await built.timeline.blob(KeyClass.Tablespace, 16400)).toEqual(location)
    expect(await built.timeline.blob(KeyClass.Tablespace, 16401)).toEqual(Buffer.alloc(1))
    built.record(RMGR.TABLESPACE, TABLESPACE_INFO.DROP, words(16400))
    await built.ingest()
    expect(await built.timeline.blob(KeyClass.Tablespace, 16400)).toBeNull()
    expect(await built.timeline.blob(KeyClass.Tablespace, 16401)).not.toBeNull()
  })
})
