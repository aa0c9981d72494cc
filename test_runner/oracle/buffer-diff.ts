/** The compute's buffers against the pageserver's newest pages, by `compare_buffers()`. */
import type pg from 'pg'
import { parseLsn } from '#libs/lsn.ts'
import type { ByteReport, PageKind } from './byte-report.ts'
import { FORK_KINDS } from './folder-diff.ts'

interface BufferRow {
  tablespace: number
  database: number
  relfilenode: number
  fork: PageKind
  block: string
  verdict: string
  first_difference: number | null
  buffer_lsn: string
  pageserver_lsn: string
}

/** Needs the extension `zenith_test_utils` in the client's database. */
export async function compareBuffers(client: pg.Client, report: ByteReport): Promise<void> {
  const { rows } = await client.query<BufferRow>('SELECT * FROM compare_buffers()')
  for (const row of rows) {
    switch (row.verdict) {
      case 'identical':
      case 'masked':
        report.compared('buffers', row.fork, 1, row.verdict === 'masked' ? 1 : 0)
        break
      case 'different':
        report.compared('buffers', row.fork, 1)
        report.differ({ comparison: 'buffers', ...describe(row) })
        break
      default:
        report.passOver(PASSED_OVER[row.verdict] ?? row.verdict)
    }
  }
}

const PASSED_OVER: Record<string, string> = {
  local: 'buffers of unlogged relations',
  gone: 'buffers that were evicted meanwhile',
  'not logged': 'buffers that are not in the WAL yet (dirty free space maps, unused heap pages)',
}

function describe(row: BufferRow) {
  const page = {
    spc: Number(row.tablespace),
    db: Number(row.database),
    rel: Number(row.relfilenode),
    fork: FORK_KINDS.indexOf(row.fork),
    block: Number(row.block),
  }
  return {
    name: `${page.spc}/${page.db}/${page.rel} ${row.fork} block ${page.block}`,
    what:
      `differs from byte ${row.first_difference} on (page LSN ${lsnText(row.pageserver_lsn)} at ` +
      `the pageserver, ${lsnText(row.buffer_lsn)} in memory)`,
    page,
  }
}

function lsnText(lsn: string): string {
  return parseLsn(lsn) === 0 ? 'none' : lsn
}
