/**
 * Random changes as ingest makes them: a block exists before it changes and begins with something
 * that needs nothing older; relations are cut, dropped and made again.
 */
import { KeyClass, PAGE_SIZE, ValueKind } from '../../keyspace/key-class.ts'
import type { HistoryModel, ModelKey, ModelVersion } from './history-model.ts'

export const RELS = 3
/** Blocks of a relation that are ever used, from its first on. */
export const BLOCKS = 12
/** Where those begin: in the second segment file of a relation, and near the end of the largest. */
const FIRST_BLOCK = [0, 131_066, 0xfffffe00]

const EMPTY = Buffer.alloc(0)

/** A version, and by how much LSNs go on before it. */
export type Change = Omit<ModelVersion, 'lsn'> & { step: number }

/** A small generator of its own, so that one number replays what follows from it. */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

export function firstBlock(rel: number): number {
  return FIRST_BLOCK[rel] as number
}

/** The size of a relation with so many of its blocks. */
export function sizeOf(rel: number, blocks: number): Omit<ModelVersion, 'lsn'> {
  const value = Buffer.alloc(4)
  value.writeUInt32LE(firstBlock(rel) + blocks)
  return { key: { cls: KeyClass.RelSize, rel, blk: 0 }, kind: ValueKind.Image, value }
}

/** Blocks of the relation at an LSN, as `sizeOf` counts them; null when it does not exist. */
export function blocksAt(model: HistoryModel, rel: number, lsn: number): number | null {
  const value = model.blob({ cls: KeyClass.RelSize, rel, blk: 0 }, lsn)
  return value && value.readUInt32LE(0) - firstBlock(rel)
}

/** The versions of one change; `blocks` tells how many a relation has now. */
export function anyChange(
  next: (below: number) => number,
  step: number,
  blocks: (rel: number) => number | null,
): Change[] {
  const rel = next(RELS)
  const choice = next(24)
  const bytes = Buffer.alloc(1 + next(300), next(256))
  if (choice === 0) {
    const cls = next(2) ? KeyClass.AuxFile : KeyClass.TwoPhase
    const kind = next(3) ? ValueKind.Image : ValueKind.Tombstone
    const value = kind === ValueKind.Image ? bytes : EMPTY
    return [{ key: { cls, rel, blk: 0 }, kind, value, step }]
  }
  if (choice === 1) return [cut(next, rel, blocks(rel))]
  // One hot block, so that the chain cap is at work.
  const blk = next(3) === 0 ? 0 : next(BLOCKS)
  const key: ModelKey = { cls: KeyClass.RelBlock, rel: blk === 0 ? 0 : rel, blk }
  const change = pageChange(key, choice, bytes)
  const size = blocks(key.rel) ?? 0
  if (blk < size) return [{ ...change, step }]
  return grown(key.rel, size, change)
}

/** Relations are dropped, or lose blocks at their end. */
function cut(next: (below: number) => number, rel: number, blocks: number | null): Change {
  const cutTo = sizeOf(rel, next((blocks ?? 0) + 1))
  if (next(4) > 0 || blocks === null) return { ...cutTo, step: 8 }
  return { ...cutTo, kind: ValueKind.Tombstone, value: EMPTY, step: 8 }
}

/**
 * Blocks that are skipped become zero pages, and so does one whose change works on a page. There is no
 * LSN at which a relation has a block that has not begun.
 */
function grown(rel: number, size: number, change: Omit<ModelVersion, 'lsn'>): Change[] {
  const { blk } = change.key
  const worksOnPage = change.kind === ValueKind.Record || change.kind === ValueKind.NativeOp
  const zeros = Array.from({ length: blk - size + (worksOnPage ? 1 : 0) }, (_, index) => ({
    key: { cls: KeyClass.RelBlock, rel, blk: size + index },
    kind: ValueKind.ZeroPage,
    value: EMPTY,
    step: 0,
  }))
  return [{ ...sizeOf(rel, blk + 1), step: 8 }, ...zeros, { ...change, step: worksOnPage ? 8 : 0 }]
}

function pageChange(key: ModelKey, choice: number, bytes: Buffer): Omit<ModelVersion, 'lsn'> {
  if (choice === 2) return { key, kind: ValueKind.ZeroPage, value: EMPTY }
  if (choice === 3) return { key, kind: ValueKind.Image, value: Buffer.alloc(PAGE_SIZE, bytes) }
  if (choice === 4) return { key, kind: ValueKind.RecordInit, value: bytes }
  return { key, kind: choice < 8 ? ValueKind.NativeOp : ValueKind.Record, value: bytes }
}
