/** The session of the original README, line by line: a branch is a copy, in both directions. */
import { expect, it, onTestFailed } from 'vitest'
import { Installation } from '../fixtures/installation.ts'

it('main and a branch go their own ways', async () => {
  await using zenith = await Installation.create()
  onTestFailed(() => console.error(zenith.logs()))

  const main = await zenith.startCompute('main')
  await main.psql('CREATE TABLE t(key int primary key, value text)')
  await main.psql(`INSERT INTO t VALUES (1, '1')`)
  expect(await main.psql('SELECT * FROM t')).toBe('1|1')

  const branch = await zenith.createBranch('migration_check')
  expect(branch).toMatchObject({ parent: 'main', state: 'active' })
  expect(branch.branchLsn).toMatch(/^0\/[0-9A-F]+$/)

  const check = await zenith.startCompute('migration_check')
  expect(check.spec.port).not.toBe(main.spec.port)
  expect(await check.psql('SELECT * FROM t')).toBe('1|1')
  await check.psql(`INSERT INTO t VALUES (2, '2')`)
  expect(await check.psql('SELECT * FROM t ORDER BY key')).toBe('1|1\n2|2')

  expect(await main.psql('SELECT * FROM t')).toBe('1|1')
  await main.psql(`UPDATE t SET value = 'changed on main' WHERE key = 1`)
  expect(await check.psql('SELECT value FROM t WHERE key = 1')).toBe('1')

  expect(await main.stop()).toBe(0)
  expect(await check.stop()).toBe(0)
  const again = await zenith.startCompute('migration_check')
  expect(await again.psql('SELECT * FROM t ORDER BY key')).toBe('1|1\n2|2')
})
