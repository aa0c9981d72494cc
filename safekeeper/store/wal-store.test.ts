/** The WAL store and its recovery on real files. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { type Lsn, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { type ControlState, newControlState } from '../control-state.ts'
import { listSegments, segmentPath } from './segment-files.ts'
import { SpareSegments } from './spare-segments.ts'
import { createFirstSegment, recoverWal } from './wal-recovery.ts'
import { WalStore } from './wal-store.ts'

const SEGMENT = 3

let root: string
let directory: string
let spares: SpareSegments

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'zenith-wal-store-'))
  directory = join(root, 'timeline')
  mkdirSync(directory)
  spares = await SpareSegments.open(join(root, 'spares'), 1)
})

afterEach(async () => {
  await spares.close()
  rmSync(root, { recursive: true })
})

function control(startLsn: Lsn, commitLsn: Lsn = startLsn): ControlState {
  const state = newControlState({
    tenantId: newTenantId(),
    timelineId: newTimelineId(),
    configuration: { generation: 1, members: [], newMembers: null },
    pgVersion: 170011,
    systemId: 7n,
    startLsn,
    createdAtMs: 0,
  })
  return { ...state, commitLsn }
}

function openStore(endLsn: Lsn, durable: Lsn[] = []): WalStore {
  return new WalStore({
    directory,
    spares,
    endLsn,
    onDurable: (_epoch, lsn) => durable.push(lsn),
    onFull: (error) => {
      throw error
    },
  })
}

/** Bytes [from, to) as they lie in the files. */
async function stored(from: Lsn, to: Lsn): Promise<Buffer> {
  const parts: Buffer[] = []
  for (const file of await listSegments(directory)) {
    const start = file.segment * WAL_SEGMENT_SIZE
    const bytes = readFileSync(file.path)
    expect(bytes.length).toBe(WAL_SEGMENT_SIZE)
    parts.push(bytes.subarray(Math.max(0, from - start), Math.max(0, to - start)))
  }
  return Buffer.concat(parts)
}

describe('WAL store', () => {
  it('writes across segments, names them, and finds the end again', async () => {
    const startLsn = (SEGMENT + 1) * WAL_SEGMENT_SIZE - 100_000
    await createFirstSegment(directory, control(startLsn), spares)
    const wal = new WalBuilder(startLsn)
    while (wal.lsn < startLsn + 300_000) wal.appendNoop(5_000)
    const bytes = wal.bytes()
    const durable: Lsn[] = []
    const store = openStore(startLsn, durable)
    for (let offset = 0; offset < bytes.length; offset += 9_999) {
      store.write(0, startLsn + offset, bytes.subarray(offset, offset + 9_999))
    }
    await store.flush()
    expect(durable.at(-1)).toBe(wal.lsn)
    expect(durable.length).toBeLessThan(10)
    await store.close()
    expect(readdirSync(directory).sort()).toEqual([
      '000000010000000000000003',
      '000000010000000000000004.partial',
    ])
    expect((await stored(startLsn, wal.lsn)).equals(bytes)).toBe(true)
    expect(await recoverWal(directory, control(startLsn))).toBe(wal.lsn)
    expect((await stored(startLsn, wal.lsn)).equals(bytes)).toBe(true)
  })

  it('cuts the tail over segments, and goes on writing there', async () => {
    const startLsn = (SEGMENT + 1) * WAL_SEGMENT_SIZE - 50_000
    await createFirstSegment(directory, control(startLsn), spares)
    const wal = new WalBuilder(startLsn)
    const cut = wal.appendNoop(20_000).endLsn
    while (wal.lsn < startLsn + 200_000) wal.appendNoop(3_000)
    const store = openStore(startLsn)
    store.write(0, startLsn, wal.bytes())
    await store.flush()
    await store.truncate(cut)
    expect(readdirSync(directory)).toEqual(['000000010000000000000003.partial'])
    const rest = (SEGMENT + 1) * WAL_SEGMENT_SIZE
    expect((await stored(cut, rest)).equals(Buffer.alloc(rest - cut))).toBe(true)
    const next = new WalBuilder(cut, { previousLsn: wal.records[0]!.startLsn })
    next.appendNoop(60_000)
    store.write(1, cut, next.bytes())
    await store.flush()
    await store.close()
    expect(await recoverWal(directory, control(startLsn))).toBe(next.lsn)
  })

  it('recovers up to the first damaged record and clears what is behind', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    const wal = new WalBuilder(startLsn)
    for (let index = 0; index < 50; index += 1) wal.appendNoop(1_000)
    const store = openStore(startLsn)
    store.write(0, startLsn, wal.bytes())
    await store.flush()
    await store.close()
    const path = segmentPath(directory, SEGMENT, true)
    const bytes = readFileSync(path)
    const broken = wal.records[30]!
    const at = segmentOffset(broken.startLsn) + 500
    bytes[at] = (bytes[at] as number) ^ 1
    writeFileSync(path, bytes)
    const flushLsn = await recoverWal(directory, control(startLsn))
    expect(flushLsn).toBe(wal.records[29]!.endLsn)
    const rest = startLsn + WAL_SEGMENT_SIZE - flushLsn
    expect((await stored(flushLsn, startLsn + WAL_SEGMENT_SIZE)).equals(Buffer.alloc(rest))).toBe(
      true,
    )
  })

  it('finishes the name of a full segment, and refuses both names at once', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    const wal = new WalBuilder(startLsn)
    wal.appendNoop(1_000)
    wal.appendSwitch()
    const store = openStore(startLsn)
    store.write(0, startLsn, wal.bytes())
    await store.close()
    const full = segmentPath(directory, SEGMENT, false)
    const partial = segmentPath(directory, SEGMENT, true)
    expect(readdirSync(directory)).toEqual(['000000010000000000000003'])
    writeFileSync(partial, readFileSync(full))
    await expect(recoverWal(directory, control(startLsn))).rejects.toMatchObject({
      code: 'corrupt',
    })
    rmSync(full)
    expect(await recoverWal(directory, control(startLsn))).toBe(startLsn + WAL_SEGMENT_SIZE)
    expect(readdirSync(directory)).toEqual(['000000010000000000000003'])
  })

  it('says that a segment is gone', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    await expect(recoverWal(directory, control(startLsn, startLsn + 8_000))).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining('is gone'),
    })
  })
})
