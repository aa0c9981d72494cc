/**
 * Files that Postgres keeps outside its pages, as values of the AuxFile class. The key is a hash of
 * the path: the first 13 bytes of its SHA-256 are (spc, db, rel, fork). Collisions of 104 bits don't
 * happen by chance, and the value repeats the path:
 *
 *   path length u16 LE | path, UTF-8 | contents from the key's block number on
 *
 * `blk` is the byte at which the contents begin. A file that was put whole has one entry, at 0; one
 * that grew by pieces (a mapping of a rewritten catalog) has an entry for each.
 */
import { createHash } from 'node:crypto'
import { ZenithError } from '#libs/errors.ts'

export interface AuxFileKey {
  spc: number
  db: number
  rel: number
  fork: number
}

export function auxFileKey(path: string): AuxFileKey {
  const hash = createHash('sha256').update(path).digest()
  return {
    spc: hash.readUInt32BE(0),
    db: hash.readUInt32BE(4),
    rel: hash.readUInt32BE(8),
    fork: hash.readUInt8(12),
  }
}

export function encodeAuxFile(path: string, content: Buffer): Buffer {
  const name = Buffer.from(path)
  const length = Buffer.alloc(2)
  length.writeUInt16LE(name.length)
  return Buffer.concat([length, name, content])
}

export function decodeAuxFile(value: Buffer): { path: string; content: Buffer } {
  const length = value.length < 2 ? value.length : value.readUInt16LE(0)
  if (2 + length > value.length) {
    throw new ZenithError('corrupt', `an auxiliary file of ${value.length} bytes has no whole path`)
  }
  return { path: value.toString('utf8', 2, 2 + length), content: value.subarray(2 + length) }
}
