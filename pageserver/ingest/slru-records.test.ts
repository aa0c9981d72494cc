import { beforeEach, describe, expect, it } from 'vitest'
import { memberXidOffset, SLRU } from '#libs/pg/slru.ts'
import { MULTIXACT_INFO, RMGR } from '#libs/wal/format.ts'
import { words } from '../../test_runner/fixtures/wal-builder.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import { checkpointAt } from './checkpoint-state.ts'
import { BuiltIngest } from '../../test_runner/fixtures/built-ingest.ts'

let built: BuiltIngest

beforeEach(() => {
  built = new BuiltIngest()
})

describe('multixacts', () => {
  const OFFSETS_PER_PAGE = 2048
  const create = (id: number, offset: number, xids: number[]) =>
    built.record(
      RMGR.MULTIXACT,
      MULTIXACT_INFO.CREATE_ID,
      words(id, offset, xids.length, ...xids.flatMap((xid) => [xid, 1])),
    )
  const zero = (page: number) =>
    built.record(RMGR.MULTIXACT, MULTIXACT_INFO.ZERO_OFF_PAGE, words(page, 0))
  const offset = (id: number) => {
    const page = built.timeline.page(
      built.slot(KeyClass.SlruBlock, SLRU.multixactOffsets, 0, 0),
      Math.floor(id / OFFSETS_PER_PAGE),
    ) as Buffer
    return page.readUInt32LE((id % OFFSETS_PER_PAGE) * 4)
  }

  for (const order of ['zeroed before, as newer', 'zeroed after, as older']) {
    it(`keeps the end of the last one on a page (next page ${order} versions log it)`, async () => {
      const last = OFFSETS_PER_PAGE - 1
      zero(0)
      create(last - 1, 100, [700, 701])
      if (order.startsWith('zeroed before')) zero(1)
      create(last, 102, [700, 702, 703])
      await built.ingest()
      if (order.startsWith('zeroed after')) zero(1)
      create(last + 1, 105, [704, 705])
      await built.ingest()
      expect([last - 1, last, last + 1, last + 2].map(offset)).toEqual([100, 102, 105, 107])
      const { checkpoint } = await checkpointAt(built.timeline, built.timeline.lastRecordLsn)
      expect([checkpoint.nextMulti, checkpoint.nextMultiOffset]).toEqual([last + 2, 107])
    })
  }

  it('spreads members over pages, also where offsets wrap', async () => {
    const firstOffset = 2 ** 32 - 3
    create(7, firstOffset, [800, 801, 802, 803, 804])
    await built.ingest()
    const member = (at: number) => {
      const page = Math.floor(at / 1636)
      const segment = built.slot(
        KeyClass.SlruBlock,
        SLRU.multixactMembers,
        0,
        Math.floor(page / 32),
      )
      return built.timeline.page(segment, page % 32)?.readUInt32LE(memberXidOffset(at))
    }
    expect([0, 1, 2, 3, 4].map((n) => member((firstOffset + n) % 2 ** 32))).toEqual([
      800, 801, 802, 803, 804,
    ])
    expect(offset(8)).toBe(2)
  })
})
