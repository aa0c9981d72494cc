/**
 * Nothing of value is on the disk of a compute or of the pageserver: both folders are thrown away,
 * and everything comes back from safekeepers and object store.
 */
import { expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

const CHECKSUM = `SELECT count(*)::text || ' ' || sum(id)::text || ' ' ||
  md5(string_agg(note, ',' ORDER BY id)) FROM thing`

async function fill(compute: Compute, from: number, to: number): Promise<void> {
  await compute.query(
    `INSERT INTO thing SELECT g, md5(g::text) FROM generate_series(${from}, ${to}) g`,
  )
}

test('compute folder deleted, pageserver folder deleted: everything comes back', async () => {
  await using zenith = await Installation.create()
  let main = await zenith.startCompute('main')
  await main.query('CREATE TABLE thing (id int PRIMARY KEY, note text)')
  await fill(main, 1, 50_000)
  await zenith.createBranch('early')
  await fill(main, 50_001, 80_000)
  const expected = await main.value(CHECKSUM)

  await main.kill()
  main.deleteData()
  main = await zenith.startCompute('main')
  expect(await main.value(CHECKSUM)).toBe(expected)

  // Rows after the last upload live only in the safekeeper's WAL.
  await fill(main, 80_001, 90_000)
  const later = await main.value(CHECKSUM)
  await main.stop()
  await zenith.losePageserverDisk()
  await zenith.start()
  main = await zenith.startCompute('main')
  expect(await main.value(CHECKSUM)).toBe(later)
  const early = await zenith.startCompute('early')
  expect(await early.value('SELECT max(id) FROM thing')).toBe(50_000)
  await fill(early, 50_001, 50_010)
  expect(await main.value(CHECKSUM)).toBe(later)
})
