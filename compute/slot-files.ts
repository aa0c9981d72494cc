/**
 * Replication slots of a base backup. Each is one file, `zenith/slots/<slot>`, that the extension of
 * an earlier compute made (pgxn/zenith/replication_state.c):
 *
 *   length u32 | pg_replslot/<slot>/state | snapshot LSN u64 | snapshot, if that LSN is not 0
 *
 * The state is Postgres' ReplicationSlotOnDisk (slot.c), of which this reads:
 *
 *   0 magic u32 | 4 CRC-32C u32 | 8 version u32 | 12 length u32 | 16 name, 64 bytes | ...
 *   96 restart LSN u64 | 104 cause of invalidation u32, 0 = valid
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import { type Lsn, readLsnLE } from '#libs/lsn.ts'
import { giveTo } from '#libs/system-user.ts'

const SLOTS_FOLDER = 'zenith/slots'
const MAPPINGS_FOLDER = 'pg_logical/mappings'
const SLOT_MAGIC = 0x1051ca1
const RESTART_LSN_OFFSET = 96
const INVALIDATED_OFFSET = 104
const STATE_MIN_SIZE = 108
const LSN_IN_MAPPING_NAME = /^map-[0-9a-f]+-[0-9a-f]+-([0-9A-F]+)_([0-9A-F]+)-/

export interface SlotFile {
  name: string
  /** Oldest WAL that the slot needs; 0 when it needs none. */
  restartLsn: Lsn
  state: Buffer
  snapshot: { name: string; content: Buffer } | null
}

/** Throws `corrupt` for what is not a slot of Postgres 17. */
export function parseSlotFile(name: string, file: Buffer): SlotFile {
  const stateEnd = 4 + (file.length < 4 ? file.length : file.readUInt32LE(0))
  const state = file.subarray(4, stateEnd)
  if (stateEnd + 8 > file.length || state.length < STATE_MIN_SIZE) {
    throw new ZenithError('corrupt', `the replication slot "${name}" is cut short`)
  }
  if (state.readUInt32LE(0) !== SLOT_MAGIC) {
    throw new ZenithError('corrupt', `the replication slot "${name}" has a wrong magic number`)
  }
  const valid = state.readUInt32LE(INVALIDATED_OFFSET) === 0
  const snapshotLsn = readLsnLE(file, stateEnd)
  const content = file.subarray(stateEnd + 8)
  return {
    name,
    restartLsn: valid ? readLsnLE(state, RESTART_LSN_OFFSET) : 0,
    state,
    snapshot: snapshotLsn === 0 ? null : { name: snapshotName(snapshotLsn), content },
  }
}

/** As SnapBuildSerialize names it: `%X-%X.snap`. */
function snapshotName(lsn: Lsn): string {
  const hex = (word: number) => word.toString(16).toUpperCase()
  return `${hex(Math.floor(lsn / 2 ** 32))}-${hex(lsn % 2 ** 32)}.snap`
}

/** Puts the slots of a fresh data folder where Postgres looks for them, and returns them. */
export function restoreSlots(dataFolder: string): SlotFile[] {
  const source = join(dataFolder, SLOTS_FOLDER)
  const names = existsSync(source) ? readdirSync(source) : []
  const slots = names.map((name) => parseSlotFile(name, readFileSync(join(source, name))))
  for (const slot of slots) {
    const folder = join(dataFolder, 'pg_replslot', slot.name)
    mkdirSync(folder, { mode: 0o700 })
    writeFileSync(join(folder, 'state'), slot.state, { mode: 0o600 })
    giveTo(folder)
    if (slot.snapshot === null) continue
    const path = join(dataFolder, 'pg_logical/snapshots', slot.snapshot.name)
    writeFileSync(path, slot.snapshot.content, { mode: 0o600 })
    giveTo(path)
  }
  removeOldMappings(dataFolder, oldestRestartLsn(slots))
  return slots
}

/** Where decoding or streaming from the slots begins at the earliest; null when none needs WAL. */
export function oldestRestartLsn(slots: readonly SlotFile[]): Lsn | null {
  const needed = slots.map(({ restartLsn }) => restartLsn).filter((lsn) => lsn !== 0)
  return needed.length === 0 ? null : Math.min(...needed)
}

/** As Postgres does at checkpoints (CheckPointLogicalRewriteHeap): no slot will read them. */
function removeOldMappings(dataFolder: string, oldestLsn: Lsn | null): void {
  const folder = join(dataFolder, MAPPINGS_FOLDER)
  for (const name of readdirSync(folder)) {
    const [, high = '', low = ''] = LSN_IN_MAPPING_NAME.exec(name) ?? []
    const lsn = Number.parseInt(high, 16) * 2 ** 32 + Number.parseInt(low, 16)
    if (oldestLsn === null || lsn < oldestLsn) unlinkSync(join(folder, name))
  }
}
