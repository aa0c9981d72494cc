/**
 * Turns a key's versions into its page: the base, then WAL records by the redo processes and
 * native operations here, in LSN order.
 */
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { isBaseKind, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { formatKey, type Key } from '../keyspace/key.ts'
import type { Version } from './read-plan.ts'

export interface RedoTag {
  spc: number
  db: number
  rel: number
  fork: number
  blk: number
}

/** The redo pool, as reads use it. */
export interface PageRedo {
  /** Applies whole WAL records in order; a null base means that the first one initialises. */
  apply(tag: RedoTag, base: Buffer | null, endLsns: number[], records: Buffer[]): Promise<Buffer>
}

/** Changes the page in place. */
export type ApplyNativeOp = (page: Buffer, op: Buffer, lsn: number) => void

export interface Appliers {
  redo: PageRedo
  applyNativeOp: ApplyNativeOp
}

/**
 * The page of `versions` (newest first), or null when there is no version at all. The result may be
 * a view of storage: callers copy and do not change it. Never throws; rejects with `corrupt` when a chain has no base.
 */
export function reconstructPage(
  key: Key,
  versions: readonly Version[],
  appliers: Appliers,
): Buffer | null | Promise<Buffer> {
  const newest = versions[0]
  if (newest === undefined) return null
  if (newest.kind === ValueKind.Image) {
    return isPage(newest) ? newest.value : Promise.reject(wrongSize(key, newest))
  }
  if (newest.kind === ValueKind.ZeroPage) return ZERO_PAGE
  if (newest.kind === ValueKind.Tombstone) return null
  return applyChain(key, versions, appliers)
}

const ZERO_PAGE = Buffer.alloc(PAGE_SIZE)

async function applyChain(
  key: Key,
  versions: readonly Version[],
  appliers: Appliers,
): Promise<Buffer> {
  const oldest = versions[versions.length - 1] as Version
  if (!isBaseKind(oldest.kind) || oldest.kind === ValueKind.Tombstone) {
    throw new ZenithError(
      'corrupt',
      `no base image for key ${formatKey(key)} below ${formatLsn(oldest.lsn)}`,
    )
  }
  let page: Buffer | null = null
  let next = versions.length - 1
  if (oldest.kind !== ValueKind.RecordInit) {
    page = oldest.kind === ValueKind.Image ? checkedPage(key, oldest) : ZERO_PAGE
    next--
  }
  let owned = false
  while (next >= 0) {
    if ((versions[next] as Version).kind === ValueKind.NativeOp) {
      if (!owned) page = Buffer.from(page as Buffer)
      owned = true
      for (; next >= 0 && versions[next]?.kind === ValueKind.NativeOp; next--) {
        const op = versions[next] as Version
        appliers.applyNativeOp(page as Buffer, op.value, op.lsn)
      }
      continue
    }
    const endLsns: Lsn[] = []
    const records: Buffer[] = []
    for (; next >= 0 && versions[next]?.kind !== ValueKind.NativeOp; next--) {
      const version = versions[next] as Version
      endLsns.push(version.lsn)
      records.push(version.value)
    }
    page = await appliers.redo.apply(key, page, endLsns, records)
    // Where the redo process' reply buffer lives is the pool's business: never write into it.
    owned = false
  }
  return page as Buffer
}

function checkedPage(key: Key, version: Version): Buffer {
  if (!isPage(version)) throw wrongSize(key, version)
  return version.value
}

function isPage(version: Version): boolean {
  return version.value.length === PAGE_SIZE
}

function wrongSize(key: Key, { lsn, value }: Version): ZenithError {
  return new ZenithError(
    'corrupt',
    `the image of key ${formatKey(key)} at ${formatLsn(lsn)} has ${value.length} bytes`,
  )
}
