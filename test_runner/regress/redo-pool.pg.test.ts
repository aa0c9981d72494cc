/**
 * Goal: a page rebuilt by the redo pool from (base page, records) equals, byte for byte, the page
 * that stock Postgres' recovery makes of the same base and WAL, for every built-in access method.
 * Method: run a workload on stock Postgres from a saved base, replay its WAL with stock Postgres,
 * rebuild every block that the WAL touches, compare. Free space maps are not logged and visibility
 * maps are partly changed by records that do not name them, so those two forks are left out here;
 * the page oracle covers the latter.
 */
import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createLogger } from '#libs/log.ts'
import { formatLsn } from '#libs/lsn.ts'
import { RedoPool, type RedoPoolOptions } from '../../pageserver/redo/redo-pool.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { WORKLOAD_SETTINGS } from '../oracle/access-method-workload.ts'
import { makeRedoScenario, type RedoScenario } from '../oracle/redo-scenario.ts'
import { readBlocks, relationKey } from '../oracle/relation-files.ts'
import type { BlockHistory } from '../oracle/wal-history.ts'

const log = createLogger('redo-test')
log.level = 'fatal'

function newPool(options: Partial<RedoPoolOptions> = {}): RedoPool {
  const workDir = join(tmpdir(), `zenith-redo-${randomBytes(6).toString('hex')}`)
  return new RedoPool({ workDir, log, maxProcesses: 2, ...options })
}

function basePage(scenario: RedoScenario, block: BlockHistory): Buffer | null {
  const file = scenario.before.get(relationKey(block))
  if (block.startsFresh || file === undefined || block.blk >= file.blocks) return null
  return readBlocks(file, block.blk, 1)
}

/** Blocks that still exist after the replay, and whose every change names them. */
function comparable(scenario: RedoScenario): BlockHistory[] {
  return [...scenario.history.blocks.values()].filter((block) => {
    const file = scenario.after.get(relationKey(block))
    return file !== undefined && block.blk < file.blocks && (block.fork === 0 || block.fork === 3)
  })
}

for (const fullPageWrites of ['off', 'on']) {
  describe(`pages with full_page_writes ${fullPageWrites}`, () => {
    let server: VanillaPostgres
    let scenario: RedoScenario
    let pool: RedoPool

    beforeAll(async () => {
      server = await VanillaPostgres.start({
        settings: {
          ...WORKLOAD_SETTINGS,
          full_page_writes: fullPageWrites,
          wal_compression: fullPageWrites === 'on' ? 'lz4' : 'off',
        },
      })
      scenario = await makeRedoScenario(server)
      pool = newPool()
    })

    afterAll(async () => {
      await pool?.close()
      await server?.[Symbol.asyncDispose]()
    })

    test('the workload touches every resource manager that changes blocks', () => {
      const managers = new Set(
        [...scenario.history.operations.keys()].map((key) => key.split('/')[0]),
      )
      // XLOG, Heap2, Heap, Btree, Hash, Gin, Gist, Sequence, SPGist, BRIN, Generic
      const wanted = ['0', '9', '10', '11', '12', '13', '14', '15', '16', '17', '20']
      expect(wanted.filter((rmid) => !managers.has(rmid))).toEqual([])
    })

    test('every rebuilt page equals the recovered one, byte for byte', async () => {
      const blocks = comparable(scenario)
      expect(blocks.length).toBeGreaterThan(3000)
      const wrong: string[] = []
      for (let first = 0; first < blocks.length; first += 256) {
        const some = blocks.slice(first, first + 256)
        await Promise.all(
          some.map(async (block) => {
            const page = await pool.apply(
              block,
              basePage(scenario, block),
              block.endLsns,
              block.records,
            )
            const file = scenario.after.get(relationKey(block))
            const expected = file === undefined ? null : readBlocks(file, block.blk, 1)
            if (expected === null || !page.equals(expected)) wrong.push(describeBlock(block))
          }),
        )
      }
      expect(wrong).toEqual([])
      expect(pool.stats.applied).toBe(blocks.length)
    })

    // With page images on, no record needs a page of the base.
    if (fullPageWrites === 'on') return

    test('a record without the page that it changes is reported as such', async () => {
      const block = comparable(scenario).find((each) => basePage(scenario, each) !== null)
      if (block === undefined) throw new Error('no block changes a page of the base')
      await expect(pool.apply(block, null, block.endLsns, block.records)).rejects.toThrow(
        `block ${block.blk} of relation ${block.spc}/${block.db}/${block.rel}`,
      )
    })

    test('a damaged record fails its page and no other', async () => {
      const blocks = comparable(scenario).slice(0, 60)
      const bad = blocks[20] as BlockHistory
      const damaged = Buffer.from(bad.records[0] as Buffer)
      damaged.fill(0xff, 24)
      const results = await Promise.allSettled(
        blocks.map((block) =>
          block === bad
            ? pool.apply(block, null, block.endLsns.slice(0, 1), [damaged])
            : pool.apply(block, basePage(scenario, block), block.endLsns, block.records),
        ),
      )
      const failed = results.flatMap((result, index) =>
        result.status === 'fulfilled' ? [] : index,
      )
      expect(failed).toEqual([20])
      expect((results[20] as PromiseRejectedResult).reason).toMatchObject({
        code: 'corrupt',
        message: expect.stringContaining(formatLsn(bad.endLsns[0] as number)),
      })
    })
  })
}

function describeBlock(block: BlockHistory): string {
  return `${relationKey(block)}:${block.blk} after ${block.records.length} records`
}
