/** WAL read back: every segment is checked by itself, wherever records begin in it. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { type Lsn, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { checkSegment, checkTail } from './segment-check.ts'
import { WalArchive } from './wal-archive.ts'
import { segmentObject } from './wal-objects.ts'

const START = 5 * WAL_SEGMENT_SIZE + 8192 * 3 + 40
const FIRST = 5

/** WAL over four segments: small records, one longer than a segment, a switch, a boundary hit. */
function build(): { bytes: Buffer; endLsn: Lsn; switchEnd: Lsn } {
  const wal = new WalBuilder(START)
  for (let count = 0; count < 200; count += 1) wal.appendNoop(26 + ((count * 977) % 20_000))
  wal.appendNoop(WAL_SEGMENT_SIZE + 5_000_000)
  wal.appendNoop(100)
  const switchEnd = wal.appendSwitch().endLsn
  for (let count = 0; count < 50; count += 1) wal.appendNoop(3000)
  const lead = Buffer.alloc(segmentOffset(START))
  return { bytes: Buffer.concat([lead, wal.bytes()]), endLsn: wal.lsn, switchEnd }
}

const WAL = build()

/** Bytes of a segment as far as they are written. */
function segment(number: number): Buffer {
  const from = (number - FIRST) * WAL_SEGMENT_SIZE
  return WAL.bytes.subarray(from, from + WAL_SEGMENT_SIZE)
}

describe('a segment by itself', () => {
  it('is right wherever records begin in it, or nowhere', async () => {
    const last = Math.floor((WAL.endLsn - 1) / WAL_SEGMENT_SIZE)
    expect(last).toBeGreaterThanOrEqual(FIRST + 2)
    for (let number = FIRST; number <= last; number += 1) {
      const end = await checkSegment(segment(number), number * WAL_SEGMENT_SIZE, START)
      expect(end).toBeLessThanOrEqual((number + 1) * WAL_SEGMENT_SIZE)
      if (number === last) expect(end).toBe(WAL.endLsn)
    }
    const switched = WAL.switchEnd / WAL_SEGMENT_SIZE - 1
    const end = await checkSegment(segment(switched), switched * WAL_SEGMENT_SIZE, START)
    expect(end).toBe(WAL.switchEnd)
  })

  it('is refused with any bit flipped that a record covers', async () => {
    const good = segment(FIRST)
    for (const offset of [segmentOffset(START) + 20, 100_003, 1_000_001]) {
      const bad = Buffer.from(good)
      bad[offset] = (bad[offset] as number) ^ 4
      await expect(checkSegment(bad, FIRST * WAL_SEGMENT_SIZE, START)).rejects.toMatchObject({
        code: 'corrupt',
      })
    }
  })

  it('as a tail has to end with a record, exactly there', async () => {
    const last = Math.floor((WAL.endLsn - 1) / WAL_SEGMENT_SIZE)
    const tail = segment(last)
    await checkTail(tail, WAL.endLsn, START)
    for (const wrong of [tail.subarray(0, -8), Buffer.concat([tail, Buffer.alloc(8)])]) {
      await expect(checkTail(wrong, WAL.endLsn, START)).rejects.toThrow(/bytes, not/)
    }
    const zeros = Buffer.concat([tail, Buffer.alloc(64)])
    await expect(checkTail(zeros, WAL.endLsn + 64, START)).rejects.toMatchObject({
      code: 'corrupt',
    })
  })
})

describe('the archive', () => {
  let scratch = ''
  let store: LocalObjectStore
  let reads = 0
  const owner = { tenantId: newTenantId(), timelineId: newTimelineId() }
  const timeline = {
    ...owner,
    startLsn: START,
    backupLsn: (FIRST + 2) * WAL_SEGMENT_SIZE,
    localStartLsn: (FIRST + 2) * WAL_SEGMENT_SIZE,
  }

  beforeEach(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'wal-archive-'))
    store = new LocalObjectStore(join(scratch, 'objects'))
    reads = 0
    for (const number of [FIRST, FIRST + 1]) {
      await store.put(segmentObject(owner, number), segment(number))
    }
  })
  afterEach(async () => {
    await rm(scratch, { recursive: true, force: true })
  })

  function archive(): WalArchive {
    return new WalArchive(store, () => {
      reads += 1
    })
  }

  it('reads a segment once for all who ask, and the next one ahead', async () => {
    const reader = archive()
    const [one, two] = await Promise.all([
      reader.segment(timeline, FIRST),
      reader.segment(timeline, FIRST),
    ])
    expect(one).toBe(two)
    expect(one.equals(segment(FIRST))).toBe(true)
    expect((await reader.segment(timeline, FIRST + 1)).equals(segment(FIRST + 1))).toBe(true)
    expect(reads).toBe(2)
  })

  it('says what is not backed up, what is away and what is damaged; and can again later', async () => {
    const reader = archive()
    await expect(reader.segment(timeline, FIRST + 2)).rejects.toMatchObject({ code: 'not_found' })
    const name = segmentObject(owner, FIRST)
    const good = Buffer.from(segment(FIRST))
    await store.delete(name)
    await expect(reader.segment(timeline, FIRST)).rejects.toMatchObject({ code: 'unavailable' })
    const bad = Buffer.from(good)
    bad[500_000] = (bad[500_000] as number) ^ 1
    await store.put(name, bad)
    await expect(reader.segment(timeline, FIRST)).rejects.toMatchObject({ code: 'corrupt' })
    await store.delete(name)
    await store.put(name, good)
    expect((await reader.segment(timeline, FIRST)).equals(good)).toBe(true)
  })
})
