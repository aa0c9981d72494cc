/**
 * Files that travel as WAL: those that the compute's extension puts into logical messages
 * (pgxn/zenith/aux_files.c), and the mappings of rewritten catalogs, which Postgres itself logs for
 * logical decoding (rewriteheap.c).
 */
import { auxFileKey, encodeAuxFile } from '../keyspace/aux-file.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { IngestContext } from './ingest-context.ts'

/** Prefix of the messages that carry files; those of users are passed over. */
export const AUX_FILE_PREFIX = 'zenith-file'

const MESSAGE_HEADER = 24
const PREFIX = Buffer.from(`${AUX_FILE_PREFIX}\0`)
const PUT = 0x50
const DELETE = 0x44
const REWRITE_HEADER = 40
/** Bytes of a LogicalRewriteMappingData. */
const MAPPING_SIZE = 36

/**
 * Messages of users name the database that they were sent in; ours are of none, and nobody else can
 * send such ones.
 *
 * xl_logical_message: database u32 | transactional u8, 3 of padding | prefix size u64, its zero byte
 * counted | message size u64 | prefix | message. The message of a file: 'P' or 'D' | path length u16
 * | path | contents.
 */
export function ingestLogicalMessage(context: IngestContext): void {
  const main = context.main()
  const prefixSize = Number(main.readBigUInt64LE(8))
  const at = MESSAGE_HEADER + prefixSize
  if (main.readUInt32LE(0) !== 0 || prefixSize !== PREFIX.length) return
  if (main.compare(PREFIX, 0, prefixSize, MESSAGE_HEADER, at)) {
    return
  }
  const pathEnd = at + 3 + main.readUInt16LE(at + 1)
  const flag = main.readUInt8(at)
  if (pathEnd > main.length || (flag !== PUT && flag !== DELETE)) {
    throw context.corrupt('carries a file in a form that does not exist')
  }
  const path = main.toString('utf8', at + 3, pathEnd)
  if (flag === DELETE) context.putTombstone(auxSlot(context, path), context.endLsn)
  else putAuxFile(context, path, main.subarray(pathEnd))
}

/**
 * xl_heap_rewrite_mapping: transaction u32 | database u32 | relation u32, 4 of padding | offset u64 |
 * count u32, 4 of padding | start LSN u64 | count mappings. They belong at the offset of a file
 * that is named by all the rest (heap_xlog_logical_rewrite).
 */
export function ingestRewriteMapping(context: IngestContext): void {
  const main = context.main()
  const offset = Number(main.readBigUInt64LE(16))
  const length = main.readUInt32LE(24) * MAPPING_SIZE
  if (main.length !== REWRITE_HEADER + length) {
    throw context.corrupt(`does not hold the ${length} bytes of mappings that it tells of`)
  }
  const hex = (at: number) => main.readUInt32LE(at).toString(16)
  const hexUpper = (at: number) => hex(at).toUpperCase()
  const createdBy = context.record.xid.toString(16)
  const name = `map-${hex(4)}-${hex(8)}-${hexUpper(36)}_${hexUpper(32)}-${hex(0)}-${createdBy}`
  putAuxFile(context, `pg_logical/mappings/${name}`, main.subarray(REWRITE_HEADER), offset)
}

function putAuxFile(context: IngestContext, path: string, content: Buffer, offset = 0): void {
  const value = encodeAuxFile(path, content)
  context.putBlob(auxSlot(context, path), context.endLsn, value, offset)
}

function auxSlot(context: IngestContext, path: string): number {
  const { spc, db, rel, fork } = auxFileKey(path)
  return context.target.slot(KeyClass.AuxFile, spc, db, rel, fork)
}
