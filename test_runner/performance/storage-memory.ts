/**
 * What a layer that nobody reads takes of memory. Each figure is from a process of its own that does
 * nothing but attach; the same of a tenth of the layers is taken off, and with it all that does not
 * depend on their number.
 */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import type { Report, ReportRow } from './report.ts'
import { managerOf, type Place, writeTimeline } from './storage-attach.ts'

const run = promisify(execFile)
const SAMPLES = 5
const SETTLE_MS = 50

interface Sized {
  layers: number
  place: Place
}

export async function measureMemory(sizes: { layers: number }, report: Report): Promise<void> {
  const [few, many] = [await make(sizes.layers / 10), await make(sizes.layers)]
  try {
    for (let sample = 0; sample < SAMPLES; sample++) {
      const difference = (await heldBy(many)) - (await heldBy(few))
      const name = 'memory per layer'
      const how = 'heap and buffers of a new process after collections, slope between two sizes'
      report.add(
        { name, unit: 'bytes', better: 'less', how, goal: '<= 64' },
        'zenith',
        difference / (many.layers - few.layers),
      )
    }
  } finally {
    for (const { place } of [few, many]) rmSync(place.dir, { recursive: true, force: true })
  }
}

/** The part of one process: what an attach leaves in its memory, in bytes. */
export async function measureHeld(place: Place, report: Report): Promise<void> {
  const before = await memoryNow()
  const manager = managerOf(place)
  await manager.attach(place.tenantId, 2)
  const bytes = (await memoryNow()) - before
  await manager.abandon()
  report.add({ name: 'held', unit: 'bytes', better: 'less', how: '' }, 'zenith', bytes)
}

async function make(layers: number): Promise<Sized> {
  const dir = mkdtempSync(join(tmpdir(), 'zenith-memory-'))
  const place = { dir, tenantId: newTenantId(), timelineId: newTimelineId() }
  await writeTimeline(place, layers)
  return { layers, place }
}

async function heldBy({ place }: Sized): Promise<number> {
  const [part = ''] = process.argv.slice(1)
  const args = ['--expose-gc', part, 'held', JSON.stringify({ place })]
  const { stdout } = await run(process.execPath, args)
  const [row] = JSON.parse(stdout) as ReportRow[]
  return row?.zenith as number
}

/** Of buffers, `external` has all but those shared with other threads, which are in the other sum. */
async function memoryNow(): Promise<number> {
  for (let round = 0; round < 2; round++) {
    globalThis.gc?.()
    await sleep(SETTLE_MS)
  }
  const { heapUsed, external, arrayBuffers } = process.memoryUsage()
  return heapUsed + Math.max(external, arrayBuffers)
}
