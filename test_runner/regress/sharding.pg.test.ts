/**
 * A branch spread over four shards on two pageservers, in stripes of 8 blocks so that even small
 * tables lie on all of them. A stock server gets the same statements and must give the same answers,
 * and every page in the compute's memory must be what its shard makes of the WAL.
 */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { ZenithError } from '#libs/errors.ts'
import { parseLsn } from '#libs/lsn.ts'
import { connectPgWire } from '#libs/pgwire/client.ts'
import { decodeResponse, encodeRequest, LATEST_LSN } from '#libs/protocol/page-stream.ts'
import { shardOfBlock, tenantShardId } from '#libs/sharding.ts'
import { runAs } from '#libs/system-user.ts'
import { TarExtractor } from '#libs/tar-extract.ts'
import { eventually } from '../fixtures/eventually.ts'
import { Twins } from '../fixtures/twins.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { compareBuffers } from '../oracle/buffer-diff.ts'
import { ByteReport } from '../oracle/byte-report.ts'

const SHARDS = 4
const STRIPE = 8

const DIGEST = `SELECT count(*), sum(id), md5(string_agg(md5(t::text), '' ORDER BY id)) FROM`

describe('a branch over four shards on two pageservers', () => {
  let twins: Twins

  beforeAll(async () => {
    const spread = {
      pageservers: 2,
      shards: SHARDS,
      stripeBlocks: STRIPE,
      pageserver: { lease_seconds: 1, gc_period_seconds: 3600 },
    }
    twins = await Twins.start({ shared_buffers: '16MB' }, undefined, spread)
  })
  afterAll(async () => {
    await twins?.[Symbol.asyncDispose]()
  })

  const shardId = (shard: number) => tenantShardId(twins.zenith.tenantId, shard, SHARDS)
  const timelineId = () => twins.compute.spec.timelineId

  async function placeOf(shard: number) {
    const placements = await callControl(twins.zenith.controlUrl, 'listPlacements')
    const id = placements.find((one) => one.shard === shard)?.pageserverId
    const node = twins.zenith.pageserverNodes.find((one) => one.id === id)
    if (node === undefined) throw new Error(`shard ${shard} is nowhere`)
    return node
  }

  it('computes find the shard of a block as the pageservers do', async () => {
    const file = new URL('../../libs/sharding-vectors.json', import.meta.url)
    const { vectors } = JSON.parse(readFileSync(file, 'utf8')) as { vectors: number[][] }
    const [row] = await twins.compute.query(
      `SELECT array_agg(shard_of_stripe(rel, stripe, count) ORDER BY at) AS shards
       FROM json_to_recordset('${JSON.stringify(
         vectors.map(([rel, stripe, count], at) => ({ at, rel, stripe, count })),
       )}') AS v(at int, rel oid, stripe bigint, count int)`,
    )
    expect(row?.['shards']).toEqual(vectors.map(([, , , shard]) => shard))
  })

  it('answers like a stock server, whatever its tables go through', async () => {
    await twins.sameEach(
      'CREATE TABLE wide (id int PRIMARY KEY, fill text, note text) WITH (fillfactor = 60)',
      'CREATE INDEX wide_note ON wide (note)',
      `INSERT INTO wide SELECT g, repeat(md5(g::text), 8), md5((g % 97)::text)
       FROM generate_series(1, 12000) g`,
      'CREATE TABLE toasted (id int, body text)',
      'ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL',
      `INSERT INTO toasted SELECT g, repeat(md5(g::text), 600) FROM generate_series(1, 60) g`,
      'CREATE UNLOGGED TABLE fleeting (id serial PRIMARY KEY, at int)',
      'INSERT INTO fleeting (at) SELECT g FROM generate_series(1, 3000) g',
      'CREATE SEQUENCE numbers',
      `SELECT nextval('numbers') FROM generate_series(1, 100)`,
    )
    await twins.evict()
    await twins.same(`${DIGEST} wide t`)
    await twins.same(`${DIGEST} toasted t`)
    await twins.sameEach(
      `UPDATE wide SET note = md5((id % 53)::text) WHERE id % 3 = 0`,
      'DELETE FROM wide WHERE id % 5 = 0',
      'VACUUM (FREEZE) wide',
      'TRUNCATE toasted',
      `INSERT INTO toasted SELECT g, repeat(md5((g + 1)::text), 500) FROM generate_series(1, 40) g`,
      'DELETE FROM wide WHERE id > 6000',
      'VACUUM wide',
    )
    await twins.evict()
    await twins.same(`${DIGEST} wide t`)
    await twins.same(`${DIGEST} toasted t`)
    await twins.same(`SELECT pg_relation_size('wide', 'vm'), pg_relation_size('toasted')`)
    await twins.same(`SELECT count(*) FROM wide WHERE note = md5('7')`)
  })

  it('grows status of transactions, multixacts and databases on shard 0', async () => {
    await twins.sameEach(
      'CREATE TABLE marks (id int, at int)',
      // More subtransactions than a page of their status holds, and than a segment of offsets.
      `DO $$ BEGIN
         FOR g IN 1..34000 LOOP
           BEGIN INSERT INTO marks VALUES (g, g % 7); EXCEPTION WHEN OTHERS THEN NULL; END;
         END LOOP;
       END $$`,
      'CREATE DATABASE copied TEMPLATE postgres STRATEGY file_copy',
      'CREATE DATABASE logged TEMPLATE postgres STRATEGY wal_log',
    )
    await twins.evict()
    await twins.same(`${DIGEST} marks t`)
    for (const database of ['copied', 'logged']) {
      const [row] = await twins.compute.query(`${DIGEST} wide t`, database)
      const [same] = await twins.compute.query(`${DIGEST} wide t`)
      expect(row).toEqual(same)
    }
    await twins.same('DROP DATABASE logged')
  })

  it('has the pages that the compute has in memory', async () => {
    await twins.same(`SELECT sum(hashtext(t::text)) FROM wide t`)
    const client = await twins.compute.connect()
    try {
      await client.query('CHECKPOINT')
      const report = new ByteReport(0)
      await compareBuffers(client, report)
      expect(report.differences, String(report)).toEqual([])
      expect(report.pages).toBeGreaterThan(500)
    } finally {
      await client.end()
    }
  })

  it('keeps each block in one shard, which refuses those of others', async () => {
    const [row] = await twins.compute.query(
      `SELECT pg_relation_filenode('wide')::int AS rel, oid::int AS db,
         (pg_relation_size('wide') / 8192)::int AS blocks FROM pg_database WHERE datname = 'postgres'`,
    )
    const { rel, db, blocks } = row as Record<string, number>
    const folders = readdirSync(join(twins.zenith.dir, 'object-store', 'tenants')).sort()
    expect(folders).toEqual([0, 1, 2, 3].map(shardId))
    const held = new Set<number>()
    for (let block = 0; block < (blocks as number); block += STRIPE) {
      held.add(shardOfBlock(rel as number, block, { count: SHARDS, stripeBlocks: STRIPE }))
    }
    expect([...held].sort((a, b) => a - b)).toEqual([0, 1, 2, 3])

    const owner = shardOfBlock(rel as number, 0, { count: SHARDS, stripeBlocks: STRIPE })
    const request = {
      kind: 'getpage',
      requestLsn: LATEST_LSN,
      notModifiedSince: 0,
      spc: 1663,
      db: db as number,
      rel: rel as number,
      fork: 0,
      firstBlock: 0,
      count: 1,
    } as const
    for (let shard = 0; shard < SHARDS; shard++) {
      const { pgPort } = await placeOf(shard)
      const client = await connectPgWire({ port: pgPort })
      const answers: unknown[] = []
      await client.startCopyBoth(
        `pagestream ${shardId(shard)} ${timelineId()}`,
        (payload) => answers.push(decodeResponse(Buffer.from(payload))),
        () => {},
      )
      client.sendCopyData(encodeRequest({ ...request, requestId: 1n }))
      client.sendCopyData(encodeRequest({ ...request, kind: 'nblocks', requestId: 2n } as never))
      while (answers.length < 2) await sleep(5)
      expect(answers).toMatchObject([
        shard === owner
          ? { kind: 'getpage' }
          : { kind: 'error', message: expect.stringContaining(`not in shard ${shard} of 4`) },
        shard === 0
          ? { kind: 'nblocks', blocks }
          : { kind: 'error', message: expect.stringContaining('is asked of shard 0') },
      ])
      client.destroy()
      const other = await connectPgWire({ port: pgPort })
      await expect(other.query(`fullbackup ${shardId(shard)} ${timelineId()}`)).rejects.toThrow(
        /needs all blocks|asked of shard 0/,
      )
      other.destroy()
    }
  })

  it('is there again after crashes, clean restarts and the loss of a pageserver', async () => {
    const [, second] = twins.zenith.pageservers
    await second?.stop('SIGKILL')
    await second?.start()
    await twins.crash()
    // What a crash leaves of an unlogged table is nothing: its init fork, which shard 0 has.
    await twins.same('SELECT count(*) FROM fleeting')
    await twins.same('INSERT INTO fleeting (at) VALUES (5) RETURNING id > 0 AS ok')
    await twins.same(`${DIGEST} wide t`)
    await twins.restart()
    await twins.same(`${DIGEST} wide t`)
    await twins.same(`${DIGEST} marks t`)
    // A compute has a new data folder at each start.
    expect(await twins.compute.value('SELECT count(*)::int FROM fleeting')).toBe(0)
  })

  it('branches all shards at one LSN', async () => {
    await twins.same('CREATE TABLE before AS SELECT g AS id FROM generate_series(1, 5000) g')
    await using child = await twins.branch('child', 'SIGINT')
    await child.same('UPDATE wide SET note = note || id WHERE id < 500')
    await child.evict()
    await child.same(`${DIGEST} wide t`)
    await child.same(`${DIGEST} before t`)
    await twins.evict()
    await twins.same(`${DIGEST} wide t`)
  })

  it('takes a branch back that a later shard refuses, and leaves nothing of it', async () => {
    const { controlUrl, tenantId, safekeeperNodes } = twins.zenith
    const aside = await twins.zenith.createBranch('aside')
    const { host, httpPort } = await placeOf(3)
    const params = { tenantId: shardId(3), timelineId: aside.timelineId }
    // Only that shard has put the parent away.
    const lsn = aside.branchLsn as string
    await callPageserver(`http://${host}:${httpPort}`, 'archiveTimeline', { params, body: { lsn } })
    const made = async () => {
      const places = await Promise.all([0, 1, 2].map(placeOf))
      const lists = await Promise.all([
        ...places.map((node, shard) =>
          callPageserver(`http://${node.host}:${node.httpPort}`, 'listTimelines', {
            params: { tenantId: shardId(shard) },
          }),
        ),
        ...safekeeperNodes.map((node) =>
          callSafekeeper(`http://${node.host}:${node.httpPort}`, 'listTimelines'),
        ),
      ])
      return lists.map((list) => list.map((one) => one.timelineId).sort())
    }
    const before = await made()
    const refused = twins.zenith.createBranch('refused', { from: 'aside' })
    await expect(refused).rejects.toMatchObject({ code: 'conflict' })
    const names = await callControl(controlUrl, 'listBranches', { params: { tenantId } })
    expect(names.map(({ name }) => name)).not.toContain('refused')
    await eventually(
      async () => JSON.stringify(await made()) === JSON.stringify(before),
      'what the others had made to go',
    )
    await callPageserver(`http://${host}:${httpPort}`, 'unarchiveTimeline', { params })
    await twins.zenith.createBranch('refused', { from: 'aside' })
  })

  it('moves one shard under reads, and goes on', async () => {
    const { controlUrl, tenantId } = twins.zenith
    const from = await placeOf(2)
    const to = twins.zenith.pageserverNodes.find(({ id }) => id !== from.id)?.id as number
    let reads = 0
    let moving = true
    const reading = (async () => {
      const client = await twins.compute.connect()
      while (moving) {
        await client.query('SELECT clear_buffer_cache()')
        await client.query(`${DIGEST} before t`)
        reads += 1
      }
      await client.end()
    })()
    await eventually(() => reads > 0, 'a first read')
    const params = { tenantId }
    await callControl(controlUrl, 'moveTenant', { params, body: { shard: 2, to } })
    const deadline = Date.now() + 120_000
    while ((await placeOf(2)).id !== to || (await movesLeft(controlUrl))) {
      expect(Date.now(), twins.zenith.logs()).toBeLessThan(deadline)
      await sleep(50)
    }
    moving = false
    await reading
    expect(reads).toBeGreaterThan(0)
    await twins.evict()
    await twins.same(`${DIGEST} wide t`)
    await twins.same('UPDATE wide SET note = md5(note) WHERE id % 7 = 0')
    await twins.evict()
    await twins.same(`${DIGEST} wide t`)
  })

  it('goes out as one data folder, which stock Postgres starts', async () => {
    const { controlUrl, tenantId } = twins.zenith
    const params = { tenantId, name: 'main' }
    const place = await callControl(controlUrl, 'exportBranch', { params, body: {} })
    expect(place.shards).toHaveLength(SHARDS)
    const folder = join(twins.stock.dir, 'exported')
    const extractor = new TarExtractor(folder, runAs())
    mkdirSync(folder, { mode: 0o700 })
    extractor.own(folder)
    const list = place.shards?.map(({ host, pgPort }) => `${host}:${pgPort}`).join(',')
    const client = await connectPgWire({ host: place.host, port: place.pgPort })
    const words = `${shardId(0)} ${place.timelineId} ${place.lsn} checksums=on shards=${list}`
    for await (const chunk of client.copyOut(`export ${words}`)) extractor.write(chunk)
    extractor.end()
    client.destroy()
    await using copy = await VanillaPostgres.create({ dataDir: folder })
    // A checksum counts the number of the block, so each page is where it belongs.
    const { stdout } = await copy.tool('pg_checksums', ['--check', '-D', folder])
    expect(stdout).toMatch(/Bad checksums: +0/)
    await copy.start()
    for (const table of ['wide', 'marks', 'before', 'toasted']) {
      const sql = `${DIGEST} ${table} t`
      expect(await copy.query(sql), table).toEqual(await twins.stock.query(sql))
    }
    expect(await copy.query('SELECT count(*)::int AS n FROM fleeting')).toEqual([{ n: 0 }])
  })

  it('collects garbage up to the cutoff of shard 0', async () => {
    const collect = async (shard: number) => {
      const { host, httpPort } = await placeOf(shard)
      const params = { tenantId: shardId(shard), timelineId: timelineId() }
      const url = `http://${host}:${httpPort}`
      await callPageserver(url, 'checkpoint', { params })
      const body = { pitrIntervalMs: 0, pitrBytes: null }
      // The control plane tells one that a shard has moved to in its next round.
      await callPageserver(url, 'setTenantConfig', { params, body })
      // A pageserver that was held up for a moment rests, and says so.
      const collected = () =>
        callPageserver(url, 'collectGarbage', { params, body }).catch((error: unknown) => {
          if (error instanceof ZenithError && error.code === 'unavailable') return null
          throw error
        })
      return (await eventually(collected, 'a collection')).cutoffLsn
    }
    await twins.compute.query('CHECKPOINT')
    expect(await collect(3)).toBeNull()
    const first = await collect(0)
    expect(first).not.toBeNull()
    for (const shard of [1, 2, 3]) {
      const cutoff = await collect(shard)
      expect(cutoff).not.toBeNull()
      expect(parseLsn(cutoff as string)).toBeLessThanOrEqual(parseLsn(first as string))
    }
    await twins.evict()
    await twins.same(`${DIGEST} wide t`)
  })
})

async function movesLeft(controlUrl: string): Promise<boolean> {
  return (await callControl(controlUrl, 'listPlacements')).some(({ move }) => move !== null)
}
