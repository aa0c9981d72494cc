/**
 * Database records. Copies and drops need to know what a whole database holds, so they read the
 * timeline, which the caller has published up to the record before.
 */
import type { Lsn } from '#libs/lsn.ts'
import { PAGE_SIZE } from '#libs/pg/page.ts'
import { DATABASE_INFO, XLR_RMGR_INFO_MASK } from '#libs/wal/format.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import type { IngestContext } from './ingest-context.ts'

const PAGES_PER_READ = 64

/**
 * Create by file copy: db | tablespace | source db | its tablespace. Create by WAL: db | tablespace.
 * Drop: db | count | tablespaces (dbase_redo in dbcommands.c). `beforeLsn` is the record before.
 */
export async function ingestDatabaseRecord(context: IngestContext, beforeLsn: Lsn): Promise<void> {
  const main = Buffer.from(context.main())
  const db = main.readUInt32LE(0)
  switch (context.record.info & XLR_RMGR_INFO_MASK) {
    case DATABASE_INFO.CREATE_FILE_COPY:
      await copyDatabase(context, beforeLsn, {
        db,
        spc: main.readUInt32LE(4),
        sourceDb: main.readUInt32LE(8),
        sourceSpc: main.readUInt32LE(12),
      })
      return
    case DATABASE_INFO.CREATE_WAL_LOG:
      context.addDatabase(main.readUInt32LE(4), db)
      return
    case DATABASE_INFO.DROP: {
      const count = main.readInt32LE(4)
      if (count < 0 || main.length < 8 + count * 4) {
        throw context.corrupt(`has room for fewer than ${count} tablespaces`)
      }
      const tablespaces = new Set<number>()
      for (let index = 0; index < count; index += 1) {
        tablespaces.add(main.readUInt32LE(8 + index * 4))
      }
      for (const spc of tablespaces) await dropDatabase(context, spc, db, beforeLsn)
      context.putDatabases()
      return
    }
    default:
      throw context.corrupt(`has the unknown type ${context.record.info}`)
  }
}

async function copyDatabase(
  context: IngestContext,
  beforeLsn: Lsn,
  copy: { spc: number; db: number; sourceSpc: number; sourceDb: number },
): Promise<void> {
  const { target, endLsn, relations } = context
  const shard = target.shard ?? null
  const { spc, db } = copy
  const filter = { spc: copy.sourceSpc, db: copy.sourceDb }
  const forks = await target.scanBlobs(KeyClass.RelSize, beforeLsn, filter)
  const [map] = await target.scanBlobs(KeyClass.RelMap, beforeLsn, filter)
  // Leftovers of a copy that failed make room first, as redo removes the folder.
  const kept = new Set(forks.map((fork) => relations.find(spc, db, fork.rel, fork.fork)))
  for (const old of await target.scanBlobs(KeyClass.RelSize, beforeLsn, { spc, db })) {
    const relation = relations.find(spc, db, old.rel, old.fork)
    if (!kept.has(relation)) context.dropFork(relation)
  }
  if (map) context.putBlob(target.slot(KeyClass.RelMap, spc, db, 0, 0), endLsn, map.value)
  for (const fork of forks) {
    const blocks = fork.value.readUInt32LE(0)
    const from = target.slot(KeyClass.RelBlock, filter.spc, filter.db, fork.rel, fork.fork)
    const relation = relations.find(spc, db, fork.rel, fork.fork)
    context.putSize(relation, blocks, endLsn)
    const to = relations.blockSlot[relation] as number
    for (let block = 0, count: number; block < blocks; block += count) {
      // The copy has the relation's number, so its blocks are in the shards of the original's.
      const run = (shard?.runEnd(to, block) ?? blocks) - block
      count = Math.min(run, blocks - block)
      if (shard !== null && !shard.keeps(to, block)) continue
      count = Math.min(count, PAGES_PER_READ)
      const pages = await target.readPages(from, block, count, beforeLsn)
      for (let page = 0; page < count; page += 1) {
        const at = page * PAGE_SIZE
        target.put(to, block + page, endLsn, ValueKind.Image, pages, at, PAGE_SIZE)
      }
    }
  }
  context.addDatabase(spc, db)
}

async function dropDatabase(
  context: IngestContext,
  spc: number,
  db: number,
  beforeLsn: Lsn,
): Promise<void> {
  const { target, endLsn, relations } = context
  for (const fork of await target.scanBlobs(KeyClass.RelSize, beforeLsn, { spc, db })) {
    context.dropFork(relations.find(spc, db, fork.rel, fork.fork))
  }
  context.putTombstone(target.slot(KeyClass.RelMap, spc, db, 0, 0), endLsn)
  context.databases.delete(`${spc}/${db}`)
}
