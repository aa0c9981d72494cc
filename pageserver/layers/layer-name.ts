/**
 * What identifies a layer, and its file name, which says all of it:
 *
 *   delta_<first key>-<last key>__<start LSN>-<end LSN>-<generation>[-<serial>]
 *   image_<first key>-<last key>__<LSN>-<floor LSN>-<generation>[-<serial>]
 *
 * Keys are 36 hex digits (both inclusive), LSNs 16, generation and serial 8.
 */
import { randomInt } from 'node:crypto'
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { compareKeys, type Key, MAX_KEY, MIN_KEY } from '../keyspace/key.ts'

export const LayerKind = { Delta: 0, Image: 1 } as const
export type LayerKind = (typeof LayerKind)[keyof typeof LayerKind]

export interface LayerId {
  kind: LayerKind
  /** First and last key that it may hold, both inclusive. */
  firstKey: Key
  lastKey: Key
  /** Delta: lowest version LSN. Image: the LSN of all its values. */
  startLsn: Lsn
  /** Exclusive. Image: startLsn + 1. */
  endLsn: Lsn
  /**
   * Image: for keys of its range that it lacks there is no version in [floorLsn, startLsn] that
   * matters, so a read goes on below floorLsn. Delta: startLsn.
   */
  floorLsn: Lsn
  generation: number
  /**
   * Sets apart what compaction makes of the same range more than once: without it a new layer might
   * get the name of one that waits to be deleted. Absent in what a flush writes.
   */
  serial?: number
}

/** True for a delta of all keys, as a flush writes it. */
export function isL0({ kind, firstKey, lastKey }: LayerId): boolean {
  return (
    kind === LayerKind.Delta && lastKey.cls === MAX_KEY.cls && compareKeys(firstKey, MIN_KEY) === 0
  )
}

const NAME =
  /^(delta|image)_([0-9a-f]{36})-([0-9a-f]{36})__([0-9A-F]{16})-([0-9A-F]{16})-([0-9a-f]{8})(?:-([0-9a-f]{8}))?$/
const SERIALS = 2 ** 32

/** A serial for a layer that compaction makes. */
export function newSerial(): number {
  return randomInt(SERIALS)
}

/** Each manifest asks for the names of all layers; an identity never changes. */
const names = new WeakMap<LayerId, string>()

export function layerName(id: LayerId): string {
  const known = names.get(id)
  if (known !== undefined) return known
  const kind = id.kind === LayerKind.Delta ? 'delta' : 'image'
  const second = id.kind === LayerKind.Delta ? id.endLsn : id.floorLsn
  const keys = `${keyHex(id.firstKey)}-${keyHex(id.lastKey)}`
  const serial = id.serial === undefined ? '' : `-${hex8(id.serial)}`
  const lsns = `${lsnHex(id.startLsn)}-${lsnHex(second)}`
  const name = `${kind}_${keys}__${lsns}-${hex8(id.generation)}${serial}`
  names.set(id, name)
  return name
}

/** Throws `corrupt` when the text is not a layer's name. */
export function parseLayerName(name: string): LayerId {
  const match = NAME.exec(name)
  if (!match) throw new ZenithError('corrupt', `"${name}" is not a layer name`)
  const [, kindText, first, last, startText, secondText, generation, serial] = match
  const startLsn = Number.parseInt(startText as string, 16)
  const second = Number.parseInt(secondText as string, 16)
  const kind = kindText === 'delta' ? LayerKind.Delta : LayerKind.Image
  return {
    kind,
    firstKey: parseKeyHex(first as string),
    lastKey: parseKeyHex(last as string),
    startLsn,
    endLsn: kind === LayerKind.Delta ? second : startLsn + 1,
    floorLsn: kind === LayerKind.Delta ? startLsn : second,
    generation: Number.parseInt(generation as string, 16),
    ...(serial === undefined ? {} : { serial: Number.parseInt(serial, 16) }),
  }
}

/** As `encodeKey` and hex digits would give, at a fraction of the time. */
function keyHex({ cls, spc, db, rel, fork, blk }: Key): string {
  return `${hex2(cls)}${hex8(spc)}${hex8(db)}${hex8(rel)}${hex2(fork)}${hex8(blk)}`
}

function parseKeyHex(text: string): Key {
  const part = (from: number, to: number) => Number.parseInt(text.slice(from, to), 16)
  return {
    cls: part(0, 2),
    spc: part(2, 10),
    db: part(10, 18),
    rel: part(18, 26),
    fork: part(26, 28),
    blk: part(28, 36),
  }
}

function hex2(value: number): string {
  return value.toString(16).padStart(2, '0')
}

function hex8(value: number): string {
  return value.toString(16).padStart(8, '0')
}

function lsnHex(lsn: Lsn): string {
  return lsn.toString(16).toUpperCase().padStart(16, '0')
}
