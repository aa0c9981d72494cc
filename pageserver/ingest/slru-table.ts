/**
 * The SLRU segments that exist and how many pages each has. Pages are keyed by segment and by their
 * number within it. Ingest is the only writer, so the table is right once loaded.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { SLRU_SEGMENT_PAGES, slruPagePrecedes, slruSegmentIsOld } from '#libs/pg/slru.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import type { IngestTarget } from './ingest-target.ts'
import type { NativeOpWriter } from './native-op.ts'

const EMPTY = Buffer.alloc(0)
const sizeBytes = Buffer.alloc(4)

type Segment = { pages: number; slot: number }

export class SlruTable {
  #target: IngestTarget
  /** By kind: segment -> its pages, and the slot of its blocks. */
  #segments: Map<number, Segment>[] = [new Map(), new Map(), new Map(), new Map()]
  /** The page that is asked for again and again: each commit sets bits of the newest. */
  #lastKind = -1
  #lastPage = -1
  #lastSlot = -1

  constructor(target: IngestTarget) {
    this.#target = target
  }

  /** Fills the table with what the timeline has at `lsn`. */
  async load(lsn: Lsn): Promise<void> {
    for (const entry of await this.#target.scanBlobs(KeyClass.SlruSegSize, lsn)) {
      const pages = entry.value.readUInt32LE(0)
      const slot = this.#blockSlot(entry.spc, entry.rel)
      this.#segments[entry.spc]?.set(entry.rel, { pages, slot })
    }
  }

  hasPage(kind: number, page: number): boolean {
    const segment = this.#of(kind).get(Math.floor(page / SLRU_SEGMENT_PAGES))
    return segment !== undefined && page % SLRU_SEGMENT_PAGES < segment.pages
  }

  /** Makes the page all zeros at `lsn`, and with it the missing ones before it in its segment. */
  zeroPage(kind: number, page: number, lsn: Lsn): void {
    const segment = Math.floor(page / SLRU_SEGMENT_PAGES)
    const inSegment = page % SLRU_SEGMENT_PAGES
    const known = this.#of(kind).get(segment)
    const pages = known?.pages ?? 0
    const slot = known?.slot ?? this.#blockSlot(kind, segment)
    for (let block = Math.min(pages, inSegment); block <= inSegment; block += 1) {
      if (block < pages && block !== inSegment) continue
      this.#target.put(slot, block, lsn, ValueKind.ZeroPage, EMPTY, 0, 0)
    }
    if (inSegment >= pages) {
      this.#of(kind).set(segment, { pages: inSegment + 1, slot })
      sizeBytes.writeUInt32LE(inSegment + 1, 0)
      const sizeSlot = this.#target.slot(KeyClass.SlruSegSize, kind, 0, segment, 0)
      this.#target.put(sizeSlot, 0, lsn, ValueKind.Image, sizeBytes, 0, 4)
    }
  }

  /** Makes sure that an operation at a later LSN finds a page to work on. */
  ensurePage(kind: number, page: number, lsn: Lsn): void {
    if (page === this.#lastPage && kind === this.#lastKind) return
    if (!this.hasPage(kind, page)) this.zeroPage(kind, page, lsn)
    this.#lastKind = kind
    this.#lastPage = page
    this.#lastSlot = this.#slotOf(kind, page)
  }

  /** The page must be there (`ensurePage`). */
  putOp(kind: number, page: number, lsn: Lsn, op: NativeOpWriter): void {
    const isLast = page === this.#lastPage && kind === this.#lastKind
    const slot = isLast ? this.#lastSlot : this.#slotOf(kind, page)
    const block = page % SLRU_SEGMENT_PAGES
    this.#target.put(slot, block, lsn, ValueKind.NativeOp, op.buffer, 0, op.length)
  }

  /**
   * Drops the segments older than page `cutoff`. Does nothing when `latestPage` is itself older,
   * which means that the ids have wrapped around (SimpleLruTruncate).
   */
  truncate(kind: number, cutoff: number, latestPage: number, lsn: Lsn): void {
    if (slruPagePrecedes(kind, latestPage, cutoff)) return
    for (const segment of [...this.#of(kind).keys()]) {
      if (slruSegmentIsOld(kind, segment, cutoff)) this.dropSegment(kind, segment, lsn)
    }
  }

  dropSegment(kind: number, segment: number, lsn: Lsn): void {
    if (!this.#of(kind).delete(segment)) return
    this.#lastKind = -1
    const sizeSlot = this.#target.slot(KeyClass.SlruSegSize, kind, 0, segment, 0)
    this.#target.put(sizeSlot, 0, lsn, ValueKind.Tombstone, EMPTY, 0, 0)
  }

  segments(kind: number): number[] {
    return [...this.#of(kind).keys()]
  }

  #slotOf(kind: number, page: number): number {
    const segment = this.#of(kind).get(Math.floor(page / SLRU_SEGMENT_PAGES))
    assert(segment !== undefined, 'an SLRU operation has its page')
    return segment.slot
  }

  #of(kind: number): Map<number, Segment> {
    return this.#segments[kind] as Map<number, Segment>
  }

  #blockSlot(kind: number, segment: number): number {
    return this.#target.slot(KeyClass.SlruBlock, kind, 0, segment, 0)
  }
}
