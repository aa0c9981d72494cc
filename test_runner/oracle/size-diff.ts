/**
 * How long the compute takes each fork to be, against the pageserver's full backup: a size that the
 * compute remembers wrongly would hide rows or bring cut ones back.
 */
import type { Compute } from '../fixtures/compute.ts'
import type { ByteReport } from './byte-report.ts'
import { FORK_KINDS, forkName } from './folder-diff.ts'
import { listRelationFiles, type RelationFile, relationKey } from './relation-files.ts'

interface SizeRow {
  spc: number
  db: number
  rel: number
  logged: boolean
  /** Blocks of main, fsm, vm and init. */
  sizes: string[]
}

const SIZES = `
  SELECT coalesce(nullif(c.reltablespace, 0), d.dattablespace) AS spc,
    CASE WHEN c.relisshared THEN 0 ELSE d.oid END AS db,
    pg_relation_filenode(c.oid) AS rel, c.relpersistence = 'p' AS logged,
    ARRAY(SELECT pg_relation_size(c.oid, fork) / 8192
      FROM unnest('{main,fsm,vm,init}'::text[]) WITH ORDINALITY AS forks (fork, n) ORDER BY n) AS sizes
  FROM pg_class c, pg_database d
  WHERE d.datname = current_database() AND c.relpersistence <> 't' AND
    pg_relation_filenode(c.oid) IS NOT NULL`

/** Compares all relations of all databases that can be connected to with `backupDir`. */
export async function compareSizes(
  compute: Compute,
  backupDir: string,
  report: ByteReport,
): Promise<void> {
  const files = listRelationFiles(backupDir)
  const databases = await compute.query('SELECT datname FROM pg_database WHERE datallowconn')
  for (const { datname } of databases) {
    const rows = (await compute.query(SIZES, datname as string)) as unknown as SizeRow[]
    for (const row of rows) compareRelation(row, files, report)
  }
}

function compareRelation(
  { spc, db, rel, logged, sizes }: SizeRow,
  files: ReadonlyMap<string, RelationFile>,
  report: ByteReport,
): void {
  for (const [fork, size] of sizes.entries()) {
    // Of an unlogged relation the pageserver has the init fork only.
    if (!logged && FORK_KINDS[fork] !== 'init') continue
    const place = { spc: Number(spc), db: Number(db), rel: Number(rel), fork }
    const file = files.get(relationKey(place))
    report.sizes++
    if ((file?.blocks ?? 0) === Number(size) && (file !== undefined || fork !== 0)) continue
    report.differ({
      comparison: 'sizes',
      name: forkName(place),
      what: `has ${size} blocks for the compute, ${file?.blocks ?? 'no'} at the pageserver`,
      page: { ...place, block: file?.blocks ?? 0 },
    })
  }
}
