/**
 * Sequences: no gap beyond what Postgres itself promises, and never a value twice. Without a crash
 * there is no gap at all, however often pages are evicted and the compute is restarted; a crash, or
 * a branch made while the compute runs, may skip the values that were logged in advance.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Twins } from '../fixtures/twins.ts'

/** As in commands/sequence.c: logged in advance beyond what is handed out. */
const LOGGED_AHEAD = 32

let twins: Twins

beforeAll(async () => {
  twins = await Twins.start()
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

async function next(compute: Compute, name: string): Promise<number> {
  return Number(await compute.value(`SELECT nextval('${name}')`))
}

test('the same values as stock Postgres over evictions and clean restarts', async () => {
  await twins.same(`CREATE SEQUENCE plain; CREATE SEQUENCE down INCREMENT -7 MAXVALUE 1000;
    CREATE SEQUENCE small AS smallint MINVALUE 1 MAXVALUE 5 CYCLE;
    CREATE SEQUENCE cached CACHE 10; CREATE SEQUENCE huge START 9223372036854775000;
    CREATE TABLE ident (id bigint GENERATED ALWAYS AS IDENTITY, s serial, v text)`)
  const draw = `SELECT nextval('plain'), nextval('down'), nextval('small'), nextval('cached'),
    nextval('huge'); INSERT INTO ident (v) VALUES ('x') RETURNING id, s;
    SELECT last_value, is_called FROM plain; SELECT last_value, is_called FROM small`
  for (const step of ['evict', 'restart', 'evict', 'restart', 'restart'] as const) {
    for (let round = 0; round < 3; round++) await twins.same(draw)
    await twins[step]()
    await twins.same(draw)
  }
})

test('setval, ALTER SEQUENCE, RESTART IDENTITY: in effect after a restart, undone by a rollback', async () => {
  await twins.same(`SELECT setval('plain', 500), setval('down', 77, false), setval('cached', 3);
    ALTER SEQUENCE huge START 1 RESTART WITH 5 INCREMENT BY 3 MAXVALUE 100000;
    ALTER SEQUENCE small MAXVALUE 7 NO CYCLE RESTART WITH 6`)
  await twins.restart()
  await twins.same(`SELECT nextval('plain'), nextval('down'), nextval('cached'), nextval('huge'),
    nextval('huge'), nextval('small'), nextval('small')`)
  await twins.same(`SELECT nextval('small')`, { fails: true })
  await twins.same(
    `BEGIN; ALTER SEQUENCE plain RESTART WITH 9000; SELECT nextval('plain'); ROLLBACK`,
  )
  await twins.evict()
  await twins.same(`SELECT nextval('plain')`)
  // A rolled back setval stays, as nextval does.
  await twins.same(`BEGIN; SELECT setval('plain', 700); SELECT nextval('plain'); ROLLBACK`)
  await twins.restart()
  await twins.same(`SELECT nextval('plain'); TRUNCATE ident RESTART IDENTITY;
    INSERT INTO ident (v) VALUES ('y') RETURNING id, s`)
  await twins.same(`BEGIN; TRUNCATE ident RESTART IDENTITY; INSERT INTO ident (v) VALUES ('z')
    RETURNING id, s; ROLLBACK`)
  await twins.evict()
  await twins.same(`INSERT INTO ident (v) VALUES ('z') RETURNING id, s`)
  await twins.restart()
  await twins.same(`SELECT nextval('cached'), lastval(); INSERT INTO ident (v) VALUES ('w')
    RETURNING id, s; SELECT sequencename, start_value, min_value, max_value, increment_by, cycle,
    cache_size, last_value FROM pg_sequences ORDER BY 1`)
})

test('many sequences, most of them evicted at the clean stop', async () => {
  await twins.same(`DO $$ BEGIN FOR i IN 1..400 LOOP
    EXECUTE format('CREATE SEQUENCE many_%s START %s', i, i * 100); END LOOP; END $$`)
  const draw = `SELECT sum(nextval(format('many_%s', i)::regclass) * i) FROM generate_series(1, 400) i`
  await twins.same(`${draw}; ${draw}`)
  await twins.evict()
  await twins.same(draw)
  await twins.same('DROP SEQUENCE many_7; CREATE SEQUENCE many_7')
  await twins.restart()
  await twins.same(draw)
  await twins.same(`SELECT i, nextval(format('many_%s', i)::regclass) FROM generate_series(1, 400) i
    ORDER BY i`)
})

test('sessions that draw until the very end of a clean stop', async () => {
  await twins.compute.query('CREATE SEQUENCE ended')
  let last = 0
  for (let round = 0; round < 3; round++) {
    const client = await twins.compute.connect()
    const drawing = (async () => {
      while (true) {
        const { rows } = await client.query<{ n: string }>("SELECT nextval('ended') AS n")
        last = Number(rows[0]?.n)
      }
    })().catch(() => {})
    await sleep(200)
    await twins.restart()
    await drawing
    const value = await next(twins.compute, 'ended')
    // One more may have been drawn whose answer did not arrive.
    expect(value - last, `round ${round}, ${last} drawn before`).toBeLessThanOrEqual(2)
    expect(value).toBeGreaterThan(last)
    last = value
  }
})

test('a crash may skip what was logged in advance, and repeats nothing', async () => {
  await twins.compute.query('CREATE SEQUENCE crashed; CREATE SEQUENCE steps INCREMENT 10 CACHE 5')
  const seen = new Set<number>()
  let before = 0
  for (let round = 0; round < 5; round++) {
    const client = await twins.compute.connect()
    const draws = 1 + ((round * 13) % 40)
    for (let draw = 0; draw < draws; draw++) {
      const { rows } = await client.query<{ n: string }>("SELECT nextval('crashed') AS n")
      const value = Number(rows[0]?.n)
      expect(seen.has(value), `value ${value} in round ${round}`).toBe(false)
      expect(value).toBeGreaterThan(before)
      expect(value - before).toBeLessThanOrEqual(draw === 0 ? LOGGED_AHEAD + 1 : 1)
      seen.add(value)
      before = value
      if (draw % 7 === 3) await twins.evict()
    }
    // What was drawn must be durable if anything that depends on it is.
    await client.query('CREATE TABLE IF NOT EXISTS anchor (n int); INSERT INTO anchor VALUES (1)')
    await client.query("SELECT nextval('steps')")
    if (round % 2 === 1) {
      // The crash comes in the middle of a clean stop.
      const stopped = twins.compute.stop()
      await sleep(Math.random() * 120)
      await twins.compute.kill()
      await stopped
    }
    await twins.crash()
  }
  // Five sessions of their own took five values each; a crash skips 32 more at most.
  const step = await next(twins.compute, 'steps')
  expect((step - 1) % 10).toBe(0)
  expect(step).toBeLessThanOrEqual(1 + 10 * 5 * (5 + LOGGED_AHEAD))
})

test('branches count on by themselves, from where the parent was', async () => {
  await twins.compute.query(
    `CREATE SEQUENCE shared; SELECT nextval('shared') FROM generate_series(1, 50)`,
  )
  const branch = await twins.branch('counting')
  const first = await next(branch.compute, 'shared')
  expect(first).toBeGreaterThan(50)
  expect(first).toBeLessThanOrEqual(51 + LOGGED_AHEAD)
  expect(await next(branch.compute, 'shared')).toBe(first + 1)
  expect(await next(twins.compute, 'shared')).toBe(51)
  // A branch of a branch that was stopped cleanly has no gap.
  expect(await branch.compute.stop()).toBe(0)
  await twins.zenith.createBranch('after-stop', { from: 'counting' })
  const later = await twins.zenith.startCompute('after-stop')
  expect(await next(later, 'shared')).toBe(first + 2)
  await later.kill()
  await branch[Symbol.asyncDispose]()
})

test('two-phase commit: the values of a prepared transaction are used, its new sequence waits', async () => {
  await twins.same('CREATE SEQUENCE phased')
  await twins.same(`BEGIN; SELECT nextval('phased'); CREATE SEQUENCE born;
    SELECT nextval('born'), nextval('born'); PREPARE TRANSACTION 'sequences'`)
  await twins.same(`SELECT nextval('phased')`)
  await twins.restart()
  await twins.same(`SELECT nextval('phased')`)
  await twins.same(`SELECT nextval('born')`, { fails: true })
  await twins.same(`COMMIT PREPARED 'sequences'`)
  await twins.evict()
  await twins.same(`SELECT nextval('born'), nextval('phased')`)
  await twins.same(`BEGIN; SELECT nextval('phased'); ALTER SEQUENCE phased RESTART 40;
    PREPARE TRANSACTION 'sequences'`)
  await twins.restart()
  await twins.same(`ROLLBACK PREPARED 'sequences'`)
  await twins.same(`SELECT nextval('phased')`)
})
