import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type Lsn, writeLsnLE } from '#libs/lsn.ts'
import { oldestRestartLsn, parseSlotFile, restoreSlots } from './slot-files.ts'

function slotFile(restartLsn: Lsn, options: { invalidated?: number; snapshotLsn?: Lsn } = {}) {
  const state = Buffer.alloc(200)
  state.writeUInt32LE(0x1051ca1, 0)
  writeLsnLE(state, restartLsn, 96)
  state.writeUInt32LE(options.invalidated ?? 0, 104)
  const head = Buffer.alloc(4)
  head.writeUInt32LE(state.length)
  const snapshotLsn = Buffer.alloc(8)
  writeLsnLE(snapshotLsn, options.snapshotLsn ?? 0, 0)
  const snapshot = Buffer.from(options.snapshotLsn ? 'snapshot' : '')
  return Buffer.concat([head, state, snapshotLsn, snapshot])
}

function dataFolder(slots: Record<string, Buffer>, mappings: string[] = []): string {
  const folder = mkdtempSync(join(tmpdir(), 'zenith-slots-'))
  for (const name of ['pg_replslot', 'pg_logical/snapshots', 'pg_logical/mappings']) {
    mkdirSync(join(folder, name), { recursive: true })
  }
  if (Object.keys(slots).length > 0) mkdirSync(join(folder, 'zenith/slots'), { recursive: true })
  for (const [name, file] of Object.entries(slots)) {
    writeFileSync(join(folder, 'zenith/slots', name), file)
  }
  for (const name of mappings) writeFileSync(join(folder, 'pg_logical/mappings', name), '')
  return folder
}

describe('slots of a base backup', () => {
  it('are put where Postgres looks, with the snapshot under its name', () => {
    const file = slotFile(0x2_0000_0000 + 0xab0, { snapshotLsn: 0x2_0000_0000 + 0xab0 })
    const folder = dataFolder({ one: file, two: slotFile(0x5000) })
    const slots = restoreSlots(folder)
    expect(oldestRestartLsn(slots)).toBe(0x5000)
    expect(readFileSync(join(folder, 'pg_replslot/one/state'))).toEqual(file.subarray(4, 204))
    expect(readdirSync(join(folder, 'pg_logical/snapshots'))).toEqual(['2-AB0.snap'])
    const snapshot = readFileSync(join(folder, 'pg_logical/snapshots/2-AB0.snap'), 'utf8')
    expect(snapshot).toBe('snapshot')
  })

  it('need no WAL when they are invalid or have none reserved', () => {
    const slots = [slotFile(0x1000, { invalidated: 1 }), slotFile(0)].map((file, index) =>
      parseSlotFile(String(index), file),
    )
    expect(oldestRestartLsn(slots)).toBeNull()
    expect(oldestRestartLsn([])).toBeNull()
  })

  it('take the mappings with them that none of them will read', () => {
    const mappings = ['map-5-4eb-0_4FF8-2ab-2ac', 'map-5-4eb-0_5000-2ab-2ac', 'map-0-1-1_0-2-3']
    const folder = dataFolder({ one: slotFile(0x5000) }, mappings)
    restoreSlots(folder)
    expect(readdirSync(join(folder, 'pg_logical/mappings')).sort()).toEqual(
      mappings.slice(1).sort(),
    )
    const without = dataFolder({}, mappings)
    expect(restoreSlots(without)).toEqual([])
    expect(readdirSync(join(without, 'pg_logical/mappings'))).toEqual([])
    expect(existsSync(join(without, 'zenith'))).toBe(false)
  })

  it('are refused when damaged', () => {
    const file = slotFile(0x5000)
    for (const length of [0, 3, 60, 204, 211]) {
      expect(() => parseSlotFile('one', file.subarray(0, length))).toThrow(/"one" is cut short/)
    }
    file.writeUInt32LE(1, 4)
    expect(() => parseSlotFile('one', file)).toThrow(/magic number/)
  })
})
