/** Tablespace records: which folders there are below pg_tblspc (tblspc_redo in tablespace.c). */
import { TABLESPACE_INFO, XLR_RMGR_INFO_MASK } from '#libs/wal/format.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { IngestContext } from './ingest-context.ts'

/**
 * Create: tablespace u32 | location, cstring, empty for a tablespace inside the data folder.
 * Drop: tablespace u32; it is empty by then, so no relation goes with it.
 */
export function ingestTablespaceRecord(context: IngestContext): void {
  const main = context.main()
  const slot = context.target.slot(KeyClass.Tablespace, main.readUInt32LE(0), 0, 0, 0)
  switch (context.record.info & XLR_RMGR_INFO_MASK) {
    case TABLESPACE_INFO.CREATE:
      context.putBlob(slot, context.endLsn, main.subarray(4))
      return
    case TABLESPACE_INFO.DROP:
      context.putTombstone(slot, context.endLsn)
      return
    default:
      throw context.corrupt(`has the unknown type ${context.record.info}`)
  }
}
