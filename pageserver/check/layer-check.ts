/** Reads one layer object whole and checks all of its checksums, as a read would one by one. */
import { crc32 } from 'node:zlib'
import { ZenithError } from '#libs/errors.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import type { LayerEntry } from '../layers/layer.ts'
import {
  type Codec,
  decodeFooter,
  FOOTER_SIZE,
  footerCrc,
  HEADER_SIZE,
  unpack,
} from '../layers/layer-format.ts'
import { LayerIndex } from '../layers/layer-index.ts'

/** What is read of an object at once. */
const READ_BYTES = 8 * 1024 * 1024

/**
 * Throws `not_found` when there is no such object, `corrupt` that says which part is damaged. With
 * `quick` only size, footer and index are looked at.
 */
export async function checkLayer(
  store: ObjectStore,
  name: string,
  entry: LayerEntry,
  options: { quick: boolean },
): Promise<void> {
  const size = await store.size(name)
  if (size === null) throw new ZenithError('not_found', `object ${name} is missing`)
  if (size !== entry.sizeBytes) {
    throw damaged(name, `it has ${size} bytes, the manifest says ${entry.sizeBytes}`)
  }
  const footerBytes = await store.getRange(name, size - FOOTER_SIZE, FOOTER_SIZE)
  const footer = decodeFooter(footerBytes)
  if (footer === null || footerCrc(footerBytes) !== entry.crc || footer.fileBytes !== size) {
    throw damaged(name, 'its footer is not the one of the manifest')
  }
  const section = await store.getRange(name, footer.indexOffset, footer.indexStoredBytes)
  if (crc32(section) !== footer.indexCrc) throw damaged(name, 'its index has a wrong checksum')
  const raw = unpack(section, footer.indexCodec, footer.indexRawBytes)
  const index = new LayerIndex(entry.id.kind, footer, raw, new SlotTable())
  if (options.quick) return
  const header = await store.getRange(name, 0, HEADER_SIZE)
  if (crc32(header.subarray(0, HEADER_SIZE - 4)) !== header.readUInt32LE(HEADER_SIZE - 4)) {
    throw damaged(name, 'its header has a wrong checksum')
  }
  await checkChunks(store, name, index)
}

async function checkChunks(store: ObjectStore, name: string, index: LayerIndex): Promise<void> {
  const { chunkStart, chunkCrc, chunkCodec, chunkRaw } = index.columns
  let bytes: Buffer = Buffer.alloc(0)
  let start = 0
  for (let chunk = 0; chunk < index.counts.chunks; chunk++) {
    const offset = chunkStart[chunk] as number
    const length = (chunkStart[chunk + 1] as number) - offset
    if (offset + length > start + bytes.length) {
      const last = lastWithin(index, chunk, offset + READ_BYTES)
      const end = chunkStart[last + 1] as number
      bytes = await store.getRange(name, offset, end - offset)
      start = offset
    }
    const stored = bytes.subarray(offset - start, offset - start + length)
    if (crc32(stored) !== chunkCrc[chunk]) {
      throw damaged(name, `chunk ${chunk} at byte ${offset} has a wrong checksum`)
    }
    unpack(stored, chunkCodec[chunk] as Codec, chunkRaw[chunk] as number)
  }
}

/** The last chunk from `first` on that ends before `limit`; at least `first` itself. */
function lastWithin(index: LayerIndex, first: number, limit: number): number {
  const { chunkStart } = index.columns
  let last = first
  while (last + 1 < index.counts.chunks) {
    if ((chunkStart[last + 2] as number) > limit) break
    last++
  }
  return last
}

function damaged(name: string, what: string): ZenithError {
  return new ZenithError('corrupt', `object ${name} is damaged: ${what}`)
}
