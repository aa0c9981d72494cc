/**
 * An extension with index types of its own: pgvector's tests as they are, and then that all
 * its pages are the right ones, also for readers after a crash and on a branch. PostGIS takes longer: npm run test:extensions.
 */
import { expect, test } from 'vitest'
import { EXTENSIONS } from '../../scripts/setup/extension-versions.ts'
import { runExtension } from '../extensions/run-extension.ts'
import { buildModule } from '../fixtures/built-module.ts'
import { Installation } from '../fixtures/installation.ts'
import { byteOracle } from '../oracle/byte-oracle.ts'

const ROWS = 3000
const TABLE = [
  'CREATE TABLE items (id int PRIMARY KEY, place vector(8))',
  'SELECT setseed(0.5)',
  `INSERT INTO items SELECT n, ARRAY[random(), random(), random(), random(),
     random(), random(), random(), random()]::vector FROM generate_series(1, ${ROWS}) n`,
  'CREATE INDEX by_graph ON items USING hnsw (place vector_l2_ops)',
  'CREATE INDEX by_list ON items USING ivfflat (place vector_cosine_ops) WITH (lists = 20)',
  'DELETE FROM items WHERE id % 7 = 0',
  'VACUUM items',
  `INSERT INTO items SELECT n, ARRAY[n, 1, 2, 3, 4, 5, 6, 7]::vector
     FROM generate_series(${ROWS + 1}, ${ROWS + 500}) n`,
]
const NEAREST = `SELECT array_agg(id) AS ids FROM (
  SELECT id FROM items ORDER BY place <-> '[.5,.5,.5,.5,.5,.5,.5,.5]' LIMIT 30) near`
const NEAREST_COSINE = NEAREST.replace('<->', '<=>')

test("pgvector's own tests, and its indexes after a crash and on a branch", async () => {
  const pgvector = EXTENSIONS.find(({ name }) => name === 'pgvector')
  if (pgvector === undefined) throw new Error('pgvector is not among the extensions')
  await using outcome = await runExtension(pgvector)
  expect([...outcome.diffs.values()].join('\n')).toBe('')
  expect(outcome.failed).toEqual([])
  expect(outcome.passed.length).toBeGreaterThanOrEqual(14)

  const { zenith } = outcome.server
  if (zenith === null) throw new Error('the tests did not run on a Zenith')
  const { installation, compute } = zenith
  const database = outcome.database
  const client = await compute.connect(database)
  for (const statement of TABLE) await client.query(statement)
  await client.query('SET enable_seqscan = off')
  const plan = await client.query(`EXPLAIN ${NEAREST}`)
  expect(JSON.stringify(plan.rows)).toContain('by_graph')
  const near = [await client.query(NEAREST), await client.query(NEAREST_COSINE)].map(
    ({ rows }) => rows,
  )
  await client.end()
  using pages = await byteOracle(installation, compute)
  expect(pages.report.differences).toEqual([])
  await installation.createBranch('copy')
  await compute.kill()

  for (const branch of ['main', 'copy']) {
    const again = await installation.startCompute(branch)
    const other = await again.connect(database)
    await other.query('SET enable_seqscan = off')
    const found = [await other.query(NEAREST), await other.query(NEAREST_COSINE)]
    expect(found.map(({ rows }) => rows)).toEqual(near)
    await other.query(`INSERT INTO items VALUES (99999, '[.5,.5,.5,.5,.5,.5,.5,.5]')`)
    const [first] = (await other.query(NEAREST)).rows as { ids: number[] }[]
    expect(first?.ids[0]).toBe(99999)
    await other.end()
    expect(await again.stop()).toBe(0)
  }
})

const CUSTOM_RMGR = `
#include "postgres.h"
#include "access/xlog_internal.h"
#include "fmgr.h"
PG_MODULE_MAGIC;
PGDLLEXPORT void _PG_init(void);
static void redo(XLogReaderState *record) {}
static void desc(StringInfo buf, XLogReaderState *record) {}
static const char *identify(uint8 info) { return NULL; }
static const RmgrData manager = {
	.rm_name = "own records", .rm_redo = redo, .rm_desc = desc, .rm_identify = identify
};
void
_PG_init(void)
{
	RegisterCustomRmgr(RM_EXPERIMENTAL_ID, &manager);
}
`

test('a library with WAL records of its own keeps a compute from starting, and is named', async () => {
  await using zenith = await Installation.create()
  using module = buildModule('own_records', CUSTOM_RMGR)
  const settings = { shared_preload_libraries: module.path }
  const compute = await zenith.launchCompute('main', { settings })
  expect(await compute.exited).toBe(1)
  const { status, error } = await compute.info()
  expect(status).toBe('crashed')
  expect(error).toContain('the custom resource manager "own records" of a preloaded library')
  expect(await (await zenith.startCompute('main')).value('SELECT 1')).toBe(1)
})
