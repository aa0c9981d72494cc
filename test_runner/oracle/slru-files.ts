/** The SLRU files of a stopped server, compared with what a timeline in memory derives from WAL. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import { COMMIT_TS_XACTS_PER_PAGE, SLRU, SLRU_SEGMENT_PAGES } from '#libs/pg/slru.ts'
import { KeyClass, PAGE_SIZE } from '../../pageserver/keyspace/key-class.ts'
import type { MemoryTimeline } from '../fixtures/memory-timeline.ts'

const FOLDERS = [
  ['pg_xact', SLRU.xact],
  ['pg_multixact/offsets', SLRU.multixactOffsets],
  ['pg_multixact/members', SLRU.multixactMembers],
  ['pg_commit_ts', SLRU.commitTs],
] as const

/**
 * `folder/segment page n` for every page that differs, `folder: ...` for other segments. The
 * timeline is read as of `lsn`. Commit times before `oldestCommitTsXid` do not count: of times that
 * were switched off in between, stock Postgres may write out pages that it still had in memory.
 */
export async function differentSlruPages(
  timeline: MemoryTimeline,
  dataDir: string,
  lsn: Lsn = timeline.lastRecordLsn,
  oldestCommitTsXid = 0,
): Promise<{ compared: number; different: string[] }> {
  const different: string[] = []
  let compared = 0
  for (const [folder, kind] of FOLDERS) {
    const firstPage =
      kind === SLRU.commitTs ? Math.floor(oldestCommitTsXid / COMMIT_TS_XACTS_PER_PAGE) : 0
    const firstSegment = Math.floor(firstPage / SLRU_SEGMENT_PAGES)
    const names = readdirSync(join(dataDir, folder)).filter(
      (name) => Number.parseInt(name, 16) >= firstSegment,
    )
    const segments = names.map((name) => Number.parseInt(name, 16))
    const live = await timeline.scanBlobs(KeyClass.SlruSegSize, lsn, { spc: kind })
    const known = new Set(live.map((entry) => entry.rel))
    const missing = segments.filter((segment) => !known.has(segment))
    const surplus = [...known].filter((segment) => !segments.includes(segment))
    if (missing.length > 0) different.push(`${folder}: ${missing.join()} missing`)
    if (surplus.length > 0) different.push(`${folder}: ${surplus.join()} not on disk`)
    for (const name of names) {
      const file = readFileSync(join(dataDir, folder, name))
      const segment = Number.parseInt(name, 16)
      const slot = timeline.slot(KeyClass.SlruBlock, kind, 0, segment, 0)
      const pages = Math.min(file.length / PAGE_SIZE, SLRU_SEGMENT_PAGES)
      for (let block = 0; block < pages; block += 1) {
        if (segment * SLRU_SEGMENT_PAGES + block < firstPage) continue
        const expected = file.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE)
        const page = timeline.page(slot, block, lsn)
        if (!page?.equals(expected)) different.push(`${folder}/${name} page ${block}`)
        compared += 1
      }
    }
  }
  return { compared, different }
}
