/**
 * Keys outside memory: 18 bytes, big endian, compared as bytes.
 *
 *   0       1         5        9         13      14        18
 *   | class | spc u32 | db u32 | rel u32 | fork  | blk u32 |
 */

/** Bytes of a whole key. */
export const KEY_SIZE = 18
/** The largest block number; a range ends after it. */
export const MAX_BLOCK = 0xffffffff

export interface Key {
  cls: number
  spc: number
  db: number
  rel: number
  fork: number
  blk: number
}

export const MIN_KEY: Key = { cls: 0, spc: 0, db: 0, rel: 0, fork: 0, blk: 0 }
export const MAX_KEY: Key = {
  cls: 0xff,
  spc: MAX_BLOCK,
  db: MAX_BLOCK,
  rel: MAX_BLOCK,
  fork: 0xff,
  blk: MAX_BLOCK,
}

export function writeKey(target: Buffer, offset: number, key: Key): void {
  target[offset] = key.cls
  target.writeUInt32BE(key.spc, offset + 1)
  target.writeUInt32BE(key.db, offset + 5)
  target.writeUInt32BE(key.rel, offset + 9)
  target[offset + 13] = key.fork
  target.writeUInt32BE(key.blk, offset + 14)
}

export function readKey(source: Buffer, offset: number): Key {
  return {
    cls: source.readUInt8(offset),
    spc: source.readUInt32BE(offset + 1),
    db: source.readUInt32BE(offset + 5),
    rel: source.readUInt32BE(offset + 9),
    fork: source.readUInt8(offset + 13),
    blk: source.readUInt32BE(offset + 14),
  }
}

export function encodeKey(key: Key): Buffer {
  const bytes = Buffer.alloc(KEY_SIZE)
  writeKey(bytes, 0, key)
  return bytes
}

/** Negative, zero or positive as `a` sorts before, with or after `b`. */
export function compareKeys(a: Key, b: Key): number {
  return (
    a.cls - b.cls ||
    a.spc - b.spc ||
    a.db - b.db ||
    a.rel - b.rel ||
    a.fork - b.fork ||
    a.blk - b.blk
  )
}

/** For messages: `RelBlock`-like keys read best as class:spc/db/rel.fork@blk. */
export function formatKey(key: Key): string {
  const cls = key.cls.toString(16).padStart(2, '0')
  return `${cls}:${key.spc}/${key.db}/${key.rel}.${key.fork}@${key.blk}`
}
