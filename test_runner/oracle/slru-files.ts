/** The SLRU files of a stopped server, compared with what a timeline in memory derives from WAL. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { SLRU, SLRU_SEGMENT_PAGES } from '#libs/pg/slru.ts'
import { KeyClass, PAGE_SIZE } from '../../pageserver/keyspace/key-class.ts'
import type { MemoryTimeline } from '../fixtures/memory-timeline.ts'

const FOLDERS = [
  ['pg_xact', SLRU.xact],
  ['pg_multixact/offsets', SLRU.multixactOffsets],
  ['pg_multixact/members', SLRU.multixactMembers],
  ['pg_commit_ts', SLRU.commitTs],
] as const

/** `folder/segment page n` for every page that differs, `folder: ...` for other segments. */
export async function differentSlruPages(
  timeline: MemoryTimeline,
  dataDir: string,
): Promise<{ compared: number; different: string[] }> {
  const different: string[] = []
  let compared = 0
  for (const [folder, kind] of FOLDERS) {
    const names = readdirSync(join(dataDir, folder))
    const segments = names.map((name) => Number.parseInt(name, 16))
    const live = await timeline.scanBlobs(KeyClass.SlruSegSize, timeline.lastRecordLsn, {
      spc: kind,
    })
    const known = new Set(live.map((entry) => entry.rel))
    const missing = segments.filter((segment) => !known.has(segment))
    const surplus = [...known].filter((segment) => !segments.includes(segment))
    if (missing.length > 0) different.push(`${folder}: ${missing.join()} missing`)
    if (surplus.length > 0) different.push(`${folder}: ${surplus.join()} not on disk`)
    for (const name of names) {
      const file = readFileSync(join(dataDir, folder, name))
      const slot = timeline.slot(KeyClass.SlruBlock, kind, 0, Number.parseInt(name, 16), 0)
      const pages = Math.min(file.length / PAGE_SIZE, SLRU_SEGMENT_PAGES)
      for (let block = 0; block < pages; block += 1) {
        const expected = file.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE)
        const page = timeline.page(slot, block)
        if (!page?.equals(expected)) different.push(`${folder}/${name} page ${block}`)
        compared += 1
      }
    }
  }
  return { compared, different }
}
