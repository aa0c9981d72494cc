/** The WAL store and its recovery on real files. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { type Lsn, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { type ControlState, newControlState } from '../control-state.ts'
import { ControlFile } from './control-file.ts'
import { SegmentDisk } from './segment-disk.ts'
import { segmentName, type SegmentRange } from './segment-plan.ts'
import { SpareSegments } from './spare-segments.ts'
import { recoverWal } from './wal-recovery.ts'
import { WalStore } from './wal-store.ts'
import { WriteSlots } from './write-slots.ts'

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

/** The disk of a timeline; its control file lies beside the folder, so that this holds WAL only. */
async function diskOf(state: ControlState): Promise<SegmentDisk> {
  const controlFile = new ControlFile(root)
  await controlFile.write(state)
  return new SegmentDisk(directory, { spares, controlFile, start: state })
}

async function recover(state: ControlState): Promise<Lsn> {
  return (await recoverWal(await diskOf(state), state)).flushLsn
}

async function openStore(
  state: ControlState,
  durable: Lsn[] = [],
  segments: SegmentRange | null = null,
  slots = new WriteSlots(1),
): Promise<WalStore> {
  return new WalStore({
    disk: await diskOf(state),
    slots,
    startLsn: state.startLsn,
    localStartLsn: state.startLsn,
    endLsn: state.startLsn,
    segments,
    onDurable: (_epoch, lsn) => durable.push(lsn),
    onFull: (error) => {
      throw error
    },
  })
}

const pathOf = (segment: number, partial: boolean) => join(directory, segmentName(segment, partial))

/** Bytes [from, to) as they lie in the files. */
function stored(from: Lsn, to: Lsn): Buffer {
  const parts: Buffer[] = []
  for (const name of readdirSync(directory).sort()) {
    const start = Number.parseInt(name.slice(16, 24), 16) * WAL_SEGMENT_SIZE
    const bytes = readFileSync(join(directory, name))
    expect(bytes.length).toBe(WAL_SEGMENT_SIZE)
    parts.push(bytes.subarray(Math.max(0, from - start), Math.max(0, to - start)))
  }
  return Buffer.concat(parts)
}

describe('WAL store', () => {
  it('writes across segments, names them, and finds the end again', async () => {
    const startLsn = (SEGMENT + 1) * WAL_SEGMENT_SIZE - 100_000
    const wal = new WalBuilder(startLsn)
    while (wal.lsn < startLsn + 300_000) wal.appendNoop(5_000)
    const bytes = wal.bytes()
    const durable: Lsn[] = []
    const store = await openStore(control(startLsn), durable)
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
    expect(stored(startLsn, wal.lsn).equals(bytes)).toBe(true)
    expect(await recover(control(startLsn))).toBe(wal.lsn)
    expect(stored(startLsn, wal.lsn).equals(bytes)).toBe(true)
  })

  it('writes in the event loop while it is alone, pieces are small and the disk is quick', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    const wal = new WalBuilder(startLsn)
    while (wal.lsn < startLsn + 200_000) wal.appendNoop(5_000)
    const bytes = wal.bytes()
    const durable: Lsn[] = []
    const slots = new WriteSlots(2)
    const store = await openStore(control(startLsn), durable, null, slots)
    let end = startLsn
    /** Whether these bytes are durable when this turn ends, before any thread can have told of them. */
    const isInline = async (length: number) => {
      store.write(0, end, bytes.subarray(end - startLsn, end - startLsn + length))
      end += length
      await new Promise<void>((resolve) => process.nextTick(resolve))
      return durable.at(-1) === end
    }
    // The file has to be opened, and the disk has yet to show what it is.
    expect(await isInline(8_000)).toBe(false)
    await store.flush()
    for (let write = 0; write < 64; write += 1) slots.inlineRule.took(50)
    expect(await isInline(8_000)).toBe(true)
    expect(await isInline(64 * 1024 + 1)).toBe(false)
    await store.flush()
    for (let write = 0; write < 64; write += 1) slots.inlineRule.took(50)
    expect(await isInline(8_000)).toBe(true)
    // Somebody else writes to the same disk.
    slots.inlineRule.applies({}, 1, performance.now())
    expect(await isInline(8_000)).toBe(false)
    await store.close()
    expect(stored(startLsn, end).equals(bytes.subarray(0, end - startLsn))).toBe(true)
  })

  it('cuts the tail over segments, and goes on writing there', async () => {
    const startLsn = (SEGMENT + 1) * WAL_SEGMENT_SIZE - 50_000
    const wal = new WalBuilder(startLsn)
    const cut = wal.appendNoop(20_000).endLsn
    while (wal.lsn < startLsn + 200_000) wal.appendNoop(3_000)
    const store = await openStore(control(startLsn))
    store.write(0, startLsn, wal.bytes())
    await store.flush()
    await store.truncate(cut)
    expect(readdirSync(directory)).toEqual(['000000010000000000000003.partial'])
    const rest = (SEGMENT + 1) * WAL_SEGMENT_SIZE
    expect(stored(cut, rest).equals(Buffer.alloc(rest - cut))).toBe(true)
    const next = new WalBuilder(cut, { previousLsn: wal.records[0]!.startLsn })
    next.appendNoop(60_000)
    store.write(1, cut, next.bytes())
    await store.flush()
    await store.close()
    expect(await recover(control(startLsn))).toBe(next.lsn)
  })

  it('recovers up to the first damaged record and clears what is behind', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    const wal = new WalBuilder(startLsn)
    for (let index = 0; index < 50; index += 1) wal.appendNoop(1_000)
    const store = await openStore(control(startLsn))
    store.write(0, startLsn, wal.bytes())
    await store.flush()
    await store.close()
    const path = pathOf(SEGMENT, true)
    const bytes = readFileSync(path)
    const broken = wal.records[30]!
    const at = segmentOffset(broken.startLsn) + 500
    bytes[at] = (bytes[at] as number) ^ 1
    writeFileSync(path, bytes)
    const flushLsn = await recover(control(startLsn))
    expect(flushLsn).toBe(wal.records[29]!.endLsn)
    const rest = startLsn + WAL_SEGMENT_SIZE - flushLsn
    expect(stored(flushLsn, startLsn + WAL_SEGMENT_SIZE).equals(Buffer.alloc(rest))).toBe(true)
  })

  it('finishes the name of a full segment; with both names the full one must be full', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    const wal = new WalBuilder(startLsn)
    wal.appendNoop(1_000)
    wal.appendSwitch()
    const store = await openStore(control(startLsn))
    store.write(0, startLsn, wal.bytes())
    await store.close()
    const full = pathOf(SEGMENT, false)
    const partial = pathOf(SEGMENT, true)
    expect(readdirSync(directory)).toEqual(['000000010000000000000003'])
    expect(stored(startLsn, wal.lsn).equals(wal.bytes())).toBe(true)
    writeFileSync(partial, readFileSync(full))
    expect(await recover(control(startLsn))).toBe(startLsn + WAL_SEGMENT_SIZE)
    expect(readdirSync(directory)).toEqual(['000000010000000000000003'])
    const damaged = Buffer.from(readFileSync(full))
    damaged.fill(0, 500)
    writeFileSync(partial, readFileSync(full))
    writeFileSync(full, damaged)
    await expect(recover(control(startLsn))).rejects.toMatchObject({ code: 'corrupt' })
    rmSync(full)
    // Its zeros may not be those of the switch: without the full name it is not whole.
    expect(await recover(control(startLsn))).toBe(wal.records[0]!.endLsn)
    expect(readdirSync(directory)).toEqual(['000000010000000000000003.partial'])
  })

  it('says that a segment is gone', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    await expect(recover(control(startLsn, startLsn + 8_000))).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining('is gone'),
    })
  })

  it('goes on from an end at a page, at a segment, and 8 bytes before each', async () => {
    const segmentEnd = (SEGMENT + 1) * WAL_SEGMENT_SIZE
    for (const end of [segmentEnd - 8192, segmentEnd - 8200, segmentEnd, segmentEnd - 8]) {
      rmSync(directory, { recursive: true })
      mkdirSync(directory)
      const startLsn = segmentEnd - 65_536
      const wal = new WalBuilder(startLsn)
      while (end - wal.lsn > 6_000) wal.appendNoop(3_000)
      // The last record ends there, with a page header between or not.
      const left = end - wal.lsn
      const crosses = Math.floor((end - 1) / 8192) > Math.floor(wal.lsn / 8192)
      wal.appendNoop(left - (crosses || wal.lsn % 8192 === 0 ? 24 : 0))
      expect(wal.lsn).toBe(end)
      const store = await openStore(control(startLsn))
      store.write(0, startLsn, wal.bytes())
      await store.close()
      const disk = await diskOf(control(startLsn))
      const { flushLsn, segments } = await recoverWal(disk, control(startLsn))
      expect(flushLsn).toBe(end)
      const next = new WalBuilder(end, { previousLsn: wal.previousLsn })
      while (next.lsn < end + 20_000) next.appendNoop(3_000)
      const again = new WalStore({
        disk,
        slots: new WriteSlots(1),
        startLsn,
        localStartLsn: startLsn,
        endLsn: end,
        segments,
        onDurable: () => {},
        onFull: () => {},
      })
      again.write(0, end, next.bytes())
      await again.close()
      expect(await recover(control(startLsn))).toBe(next.lsn)
      expect(stored(startLsn, next.lsn).equals(Buffer.concat([wal.bytes(), next.bytes()]))).toBe(
        true,
      )
    }
  })

  it('makes a half-made segment whole, and removes an empty one', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    const wal = new WalBuilder(startLsn)
    wal.appendNoop(5_000)
    writeFileSync(pathOf(SEGMENT, true), wal.bytes())
    writeFileSync(pathOf(SEGMENT + 1, true), '')
    expect(await recover(control(startLsn))).toBe(wal.lsn)
    expect(readdirSync(directory)).toEqual([segmentName(SEGMENT, true)])
    expect(stored(startLsn, wal.lsn).equals(wal.bytes())).toBe(true)
    writeFileSync(pathOf(SEGMENT, true), wal.bytes().subarray(0, 2_000))
    await expect(recover(control(startLsn, wal.lsn))).rejects.toMatchObject({ code: 'corrupt' })
  })

  it('removes whole segments and says so in the control file first', async () => {
    const startLsn = SEGMENT * WAL_SEGMENT_SIZE
    const wal = new WalBuilder(startLsn)
    wal.appendSwitch()
    wal.appendSwitch()
    wal.appendNoop(5_000)
    const state = control(startLsn)
    const controlFile = new ControlFile(root)
    const store = await openStore(state)
    store.write(0, startLsn, wal.bytes())
    await store.flush()
    await store.remove(wal.lsn)
    expect(readdirSync(directory)).toEqual([segmentName(SEGMENT + 2, true)])
    const { localStartLsn } = await controlFile.read()
    expect(localStartLsn).toBe(startLsn + 2 * WAL_SEGMENT_SIZE)
    await store.close()
    // A removal that a crash undid is done again; WAL that is missing above is not taken for one.
    writeFileSync(pathOf(SEGMENT, false), Buffer.alloc(WAL_SEGMENT_SIZE))
    const after = { ...state, localStartLsn, commitLsn: localStartLsn }
    expect(await recover(after)).toBe(wal.lsn)
    expect(readdirSync(directory)).toEqual([segmentName(SEGMENT + 2, true)])
    await expect(recover({ ...after, localStartLsn: startLsn })).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining('is gone'),
    })
  })
})
