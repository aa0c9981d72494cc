/** A slot goes on with whichever safekeepers are there, also when one of them lacks the old WAL. */
import { expect, it } from 'vitest'
import { Installation } from '../fixtures/installation.ts'
import type { ServiceProcess } from '../fixtures/service-process.ts'

const SETTINGS = { wal_level: 'logical' }

it('gets its old WAL from any safekeeper that has it', async () => {
  await using zenith = await Installation.create({ safekeepers: 3 })
  let compute = await zenith.startCompute('main', { settings: SETTINGS })
  await compute.query('CREATE TABLE numbered (n int)')
  await compute.query(`SELECT pg_create_logical_replication_slot('slot', 'test_decoding')`)
  const decoded: string[] = []
  for (let n = 0; n < 3; n++) {
    const away = zenith.safekeepers[n] as ServiceProcess
    await away.stop('SIGKILL')
    await compute.query(`INSERT INTO numbered VALUES (${2 * n})`)
    await compute.kill()
    compute = await zenith.startCompute('main', { settings: SETTINGS })
    await compute.query(`INSERT INTO numbered VALUES (${2 * n + 1})`)
    const rows = await compute.query(
      `SELECT data FROM pg_logical_slot_get_changes('slot', NULL, NULL) WHERE data LIKE 'table%'`,
    )
    decoded.push(...rows.map((row) => String(row['data'])))
    // This one comes back without what was written meanwhile, and the next one goes at once.
    expect(await compute.stop()).toBe(0)
    await away.start()
    compute = await zenith.startCompute('main', { settings: SETTINGS })
  }
  expect(decoded).toEqual(
    Array.from({ length: 6 }, (_, n) => `table public.numbered: INSERT: n[integer]:${n}`),
  )
})
