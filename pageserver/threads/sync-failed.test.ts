import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import {
  flushPage,
  openTenants,
  pageOf,
  slotOf,
  START_LSN,
  TENANT,
  TIMELINE,
} from './testing/failing-disk.ts'

const PROCESS = fileURLToPath(new URL('./testing/failing-disk-process.ts', import.meta.url))

test('a sync that fails in the flush thread ends the process; what it had told of is there', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'failing-disk-'))
  try {
    const env = { ...process.env, FAILING_DISK: join(folder, 'disk-fails') }
    const ended = await promisify(execFile)(process.execPath, [PROCESS, folder], { env }).then(
      () => null,
      (error: { code: number; stdout: string; stderr: string }) => error,
    )
    const durable = START_LSN + 0x100
    expect(ended?.code).toBe(70)
    expect(ended?.stderr).toMatch(
      /"msg":"fsync of .* failed, stopping: EIO: i\/o error, fdatasync"/,
    )
    expect(ended?.stdout).toBe(`${durable}\n`)

    const tenants = await openTenants(folder, 2)
    const timeline = tenants.tenant(TENANT).timeline(TIMELINE)
    expect(timeline.diskConsistentLsn).toBe(durable)
    expect(timeline.lastRecordLsn).toBe(durable)
    expect(await timeline.readPage(slotOf(timeline), 0, durable)).toEqual(pageOf(0))
    // The WAL behind it comes again, to a disk that works.
    await flushPage(timeline, 1, START_LSN + 0x200)
    expect(timeline.diskConsistentLsn).toBe(START_LSN + 0x200)
    expect(await timeline.readPage(slotOf(timeline), 1, START_LSN + 0x200)).toEqual(pageOf(1))
    await tenants.abandon()
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}, 60_000)
