import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { newControlState } from '../control-state.ts'
import { CONTROL_FILE_NAME, ControlFile } from './control-file.ts'

let directory: string

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'zenith-control-file-'))
})

afterEach(() => rmSync(directory, { recursive: true }))

const STATE = newControlState({
  tenantId: newTenantId(),
  timelineId: newTimelineId(),
  configuration: { generation: 1, members: [], newMembers: null },
  pgVersion: 170011,
  systemId: 7n,
  startLsn: 4096,
  createdAtMs: 0,
})

const inode = () => statSync(join(directory, CONTROL_FILE_NAME)).ino

describe('control file on disk', () => {
  it('is replaced as a whole, in the order of the calls, and only when something changed', async () => {
    const file = new ControlFile(directory)
    await Promise.all([1, 2, 3].map((term) => file.write({ ...STATE, term })))
    expect(file.stored.term).toBe(3)
    const before = inode()
    await file.write({ ...STATE, term: 3 })
    expect(inode()).toBe(before)
    await file.write({ ...STATE, term: 4 })
    expect(inode()).not.toBe(before)
    const again = new ControlFile(directory)
    expect(await again.read()).toEqual({ ...STATE, term: 4 })
    const same = inode()
    await again.write({ ...STATE, term: 4 })
    expect(inode()).toBe(same)
  })

  it('removes a successor that was not finished', async () => {
    const file = new ControlFile(directory)
    await file.write(STATE)
    writeFileSync(join(directory, `${CONTROL_FILE_NAME}.tmp`), 'half of')
    expect(await file.read()).toEqual(STATE)
    expect(readdirSync(directory)).toEqual([CONTROL_FILE_NAME])
  })

  it('is marked over the newest state that was asked for, and keeps the mark afterwards', async () => {
    const file = new ControlFile(directory)
    await file.write(STATE)
    void file.write({ ...STATE, term: 5 })
    await file.mark(true, 8192)
    const marked = { dirtyTail: true, localStartLsn: 8192 }
    expect(file.stored).toEqual({ ...STATE, term: 5, ...marked })
    // The acceptor knows nothing of the mark.
    await file.write({ ...STATE, term: 6 })
    expect(await new ControlFile(directory).read()).toEqual({ ...STATE, term: 6, ...marked })
  })
})
