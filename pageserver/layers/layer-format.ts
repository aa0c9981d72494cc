/**
 * Bytes of a layer file, little endian except keys (drawn in docs/formats/layer-file.md):
 *
 *   [header 256][chunk]*[index section][footer 64]
 *
 * The footer holds the CRC of the index section, which holds the CRC of every chunk; the manifest
 * holds the footer's CRC. So one number in the manifest vouches for every byte that a read uses.
 */
import { crc32, constants as zlibConstants, zstdCompressSync } from 'node:zlib'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { readLsnLE, writeLsnLE } from '#libs/lsn.ts'
import { KEY_SIZE, writeKey } from '../keyspace/key.ts'
import type { LayerId } from './layer-name.ts'
import { expandZstd } from './zstd-expander.ts'

export const HEADER_SIZE = 256
export const FOOTER_SIZE = 64
const FORMAT_VERSION = 1
const HEADER_MAGIC = Buffer.from('ZLAYER01')
const FOOTER_MAGIC = Buffer.from('ZLFOOT01')

export const Codec = { Raw: 0, Zstd: 1 } as const
export type Codec = (typeof Codec)[keyof typeof Codec]

const ZSTD_OPTIONS = {
  params: { [zlibConstants.ZSTD_c_compressionLevel]: 1 },
}
/** Compressing smaller pieces costs more than it saves. */
export const MIN_COMPRESSED_BYTES = 512

/** True when a compressed form is worth keeping: it saves at least one eighth. */
export function savesEnough(storedBytes: number, rawBytes: number): boolean {
  return storedBytes <= rawBytes - rawBytes / 8
}

export interface LayerOwner {
  tenantId: string
  timelineId: string
  pgVersion: number
}

/**
 *   0 magic 8 | 8 format u16 | 10 kind u8 | 11 zero | 12 pg version u32 | 16 tenant 16 |
 *   32 timeline 16 | 48 generation u32 | 52 serial u32 | 56 start LSN u64 | 64 end LSN u64 |
 *   72 floor LSN u64 | 80 first key 18 | 98 last key 18 | zeros | 252 crc32 of bytes 0..252
 */
export function encodeHeader(id: LayerId, owner: LayerOwner): Buffer {
  const header = Buffer.alloc(HEADER_SIZE)
  HEADER_MAGIC.copy(header)
  header.writeUInt16LE(FORMAT_VERSION, 8)
  header.writeUInt8(id.kind, 10)
  header.writeUInt32LE(owner.pgVersion, 12)
  header.write(owner.tenantId, 16, 'hex')
  header.write(owner.timelineId, 32, 'hex')
  header.writeUInt32LE(id.generation, 48)
  header.writeUInt32LE(id.serial ?? 0, 52)
  writeLsnLE(header, id.startLsn, 56)
  writeLsnLE(header, id.endLsn, 64)
  writeLsnLE(header, id.floorLsn, 72)
  writeKey(header, 80, id.firstKey)
  writeKey(header, 80 + KEY_SIZE, id.lastKey)
  header.writeUInt32LE(crc32(header.subarray(0, 252)), 252)
  return header
}

export interface Footer {
  indexOffset: number
  indexStoredBytes: number
  indexRawBytes: number
  indexCodec: Codec
  indexCrc: number
  groups: number
  rows: number
  chunks: number
  fileBytes: number
}

/**
 *   0 magic 8 | 8 index offset u64 | 16 index stored u32 | 20 index raw u32 | 24 index codec u32 |
 *   28 index crc32 u32 | 32 groups u32 | 36 rows u32 | 40 chunks u32 | 44 zero u32 |
 *   48 file bytes u64 | 56 header crc32 u32 | 60 crc32 of bytes 0..60
 */
export function encodeFooter(footer: Footer, header: Buffer): Buffer {
  const bytes = Buffer.alloc(FOOTER_SIZE)
  FOOTER_MAGIC.copy(bytes)
  writeLsnLE(bytes, footer.indexOffset, 8)
  bytes.writeUInt32LE(footer.indexStoredBytes, 16)
  bytes.writeUInt32LE(footer.indexRawBytes, 20)
  bytes.writeUInt32LE(footer.indexCodec, 24)
  bytes.writeUInt32LE(footer.indexCrc, 28)
  bytes.writeUInt32LE(footer.groups, 32)
  bytes.writeUInt32LE(footer.rows, 36)
  bytes.writeUInt32LE(footer.chunks, 40)
  writeLsnLE(bytes, footer.fileBytes, 48)
  bytes.writeUInt32LE(header.readUInt32LE(252), 56)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 60)), 60)
  return bytes
}

/** Returns null unless the bytes are an intact footer. */
export function decodeFooter(bytes: Buffer): Footer | null {
  if (bytes.length !== FOOTER_SIZE || !bytes.subarray(0, 8).equals(FOOTER_MAGIC)) return null
  if (crc32(bytes.subarray(0, 60)) !== bytes.readUInt32LE(60)) return null
  return {
    indexOffset: readLsnLE(bytes, 8),
    indexStoredBytes: bytes.readUInt32LE(16),
    indexRawBytes: bytes.readUInt32LE(20),
    indexCodec: bytes.readUInt32LE(24) as Codec,
    indexCrc: bytes.readUInt32LE(28),
    groups: bytes.readUInt32LE(32),
    rows: bytes.readUInt32LE(36),
    chunks: bytes.readUInt32LE(40),
    fileBytes: readLsnLE(bytes, 48),
  }
}

/** The footer's own checksum: what the manifest keeps. */
export function footerCrc(bytes: Buffer): number {
  return bytes.readUInt32LE(60)
}

/** Compresses when that saves enough; used for the index section. */
export function pack(raw: Buffer): { stored: Buffer; codec: Codec } {
  if (raw.length < MIN_COMPRESSED_BYTES) return { stored: raw, codec: Codec.Raw }
  const stored = zstdCompressSync(raw, ZSTD_OPTIONS)
  if (!savesEnough(stored.length, raw.length)) return { stored: raw, codec: Codec.Raw }
  return { stored, codec: Codec.Zstd }
}

/** Throws `corrupt` when the bytes do not expand to `rawBytes`. The CRC was checked before. */
export function unpack(stored: Buffer, codec: Codec, rawBytes: number): Buffer {
  if (codec === Codec.Raw && stored.length === rawBytes) return stored
  const what = `a piece of a layer does not expand to ${rawBytes} bytes`
  if (codec !== Codec.Zstd) throw new ZenithError('corrupt', what)
  let raw: Buffer
  try {
    raw = expandZstd(stored, rawBytes)
  } catch (error) {
    throw new ZenithError('corrupt', `${what}: ${errorMessage(error)}`, { cause: error })
  }
  if (raw.length !== rawBytes) throw new ZenithError('corrupt', what)
  return raw
}

/*
 * A chunk, raw: entries of one or more keys, each key's oldest first.
 *
 *   0 count u32 | 4 zero u32 | 8 lsn f64 x count | offset u32 x (count + 1) | kind u8 x count |
 *   values
 *
 * Offsets count from the start of the chunk; a value runs to the next entry's offset.
 */

export function chunkOverhead(count: number): number {
  return 8 + 8 * count + 4 * (count + 1) + count
}

export function chunkEntryLsn(chunk: Buffer, entry: number): number {
  return chunk.readDoubleLE(8 + 8 * entry)
}

export function chunkEntryKind(chunk: Buffer, entry: number): number {
  const count = chunk.readUInt32LE(0)
  return chunk.readUInt8(8 + 8 * count + 4 * (count + 1) + entry)
}

/** A view of the value's bytes. */
export function chunkEntryValue(chunk: Buffer, entry: number): Buffer {
  const offsets = 8 + 8 * chunk.readUInt32LE(0)
  return chunk.subarray(
    chunk.readUInt32LE(offsets + 4 * entry),
    chunk.readUInt32LE(offsets + 4 * entry + 4),
  )
}
