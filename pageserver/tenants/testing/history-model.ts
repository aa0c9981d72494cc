/**
 * The reference: every version of every key in a Map, replayed naively. Branches point at their
 * parent. Slow and obviously right.
 */
import { isBaseKind, isInheritedClass, PAGE_SIZE, ValueKind } from '../../keyspace/key-class.ts'
import { toyNativeOp, toyRecord } from './toy-redo.ts'

export interface ModelKey {
  cls: number
  rel: number
  blk: number
}

export interface ModelVersion {
  key: ModelKey
  lsn: number
  kind: ValueKind
  value: Buffer
}

export class HistoryModel {
  readonly parent: HistoryModel | null
  readonly parentLsn: number
  /** In the order they were put. */
  readonly versions: ModelVersion[] = []
  readonly #byKey = new Map<string, ModelVersion[]>()
  lastLsn: number

  constructor(parent: HistoryModel | null, startLsn: number) {
    this.parent = parent
    this.parentLsn = startLsn
    this.lastLsn = startLsn
  }

  put(version: ModelVersion): void {
    this.versions.push(version)
    const text = keyText(version.key)
    const chain = this.#byKey.get(text)
    if (chain) chain.push(version)
    else this.#byKey.set(text, [version])
  }

  /** Oldest first, from the last version that needs nothing older. */
  chain(key: ModelKey, lsn: number): ModelVersion[] {
    const own = (this.#byKey.get(keyText(key)) ?? []).filter((version) => version.lsn <= lsn)
    const base = own.findLastIndex((version) => isBaseKind(version.kind))
    if (base >= 0) return own.slice(base)
    if (this.parent === null || !isInheritedClass(key.cls)) return own
    return [...this.parent.chain(key, Math.min(lsn, this.parentLsn)), ...own]
  }

  /** What readPages must give; zeros where nothing was put. */
  page(key: ModelKey, lsn: number): Buffer {
    const page = Buffer.alloc(PAGE_SIZE)
    for (const { kind, value, lsn: at } of this.chain(key, lsn)) {
      if (kind === ValueKind.Image) value.copy(page)
      else if (kind === ValueKind.ZeroPage) page.fill(0)
      else if (kind === ValueKind.NativeOp) toyNativeOp(page, value, at)
      else toyRecord(page, value, at)
    }
    return page
  }

  /** What readBlob must give. */
  blob(key: ModelKey, lsn: number): Buffer | null {
    const newest = this.chain(key, lsn).at(-1)
    return newest === undefined || newest.kind === ValueKind.Tombstone ? null : newest.value
  }
}

export function keyText(key: ModelKey): string {
  return `${key.cls}/${key.rel}/${key.blk}`
}
