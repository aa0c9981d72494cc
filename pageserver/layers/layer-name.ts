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
const BYTES = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))
const SERIALS = 2 ** 32

/** A serial for a layer that compaction makes. */
export function newSerial(): number {
  return randomInt(SERIALS)
}

export function layerName(id: LayerId): string {
  const kind = id.kind === LayerKind.Delta ? 'delta' : 'image'
  const second = id.kind === LayerKind.Delta ? id.endLsn : id.floorLsn
  const keys = `${keyHex(id.firstKey)}-${keyHex(id.lastKey)}`
  const serial = id.serial === undefined ? '' : `-${hex8(id.serial)}`
  const lsns = `${lsnHex(id.startLsn)}-${lsnHex(second)}`
  return `${kind}_${keys}__${lsns}-${hex8(id.generation)}${serial}`
}

/** Throws `corrupt` when the text is not a layer's name. */
export function parseLayerName(name: string): LayerId {
  const match = NAME.exec(name)
  if (!match) throw new ZenithError('corrupt', `"${name}" is not a layer name`)
  return idOf(match)
}

function idOf(match: RegExpExecArray): LayerId {
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

/**
 * The parts of a local file's name, `[<shard>.][<timeline>.]<name>`; null when it is not the name of a
 * layer's file.
 */
export function parseFileName(fileName: string): { id: LayerId; places: string[] } | null {
  const places = fileName.split('.')
  const match = NAME.exec(places.pop() as string)
  return match && { id: idOf(match), places }
}

/** As `encodeKey` and hex digits would give, at a fraction of the time. */
function keyHex({ cls, spc, db, rel, fork, blk }: Key): string {
  return `${hex2(cls)}${hex8(spc)}${hex8(db)}${hex8(rel)}${hex2(fork)}${hex8(blk)}`
}

/** Mostly, the names that come one after the other are of one relation. */
let lastPrefix = { text: '', key: MIN_KEY }

function parseKeyHex(text: string): Key {
  const part = (from: number, to: number) => Number.parseInt(text.slice(from, to), 16)
  if (lastPrefix.text === '' || !text.startsWith(lastPrefix.text)) {
    const [cls, spc, db, rel, fork] = [
      part(0, 2),
      part(2, 10),
      part(10, 18),
      part(18, 26),
      part(26, 28),
    ]
    lastPrefix = { text: text.slice(0, 28), key: { cls, spc, db, rel, fork, blk: 0 } as Key }
  }
  return { ...lastPrefix.key, blk: part(28, 36) }
}

function hex2(value: number): string {
  return BYTES[value] as string
}

function hex8(value: number): string {
  const low = value & 0xffff
  const high = value >>> 16
  return `${hex2(high >>> 8)}${hex2(high & 0xff)}${hex2(low >>> 8)}${hex2(low & 0xff)}`
}

function lsnHex(lsn: Lsn): string {
  return lsn.toString(16).toUpperCase().padStart(16, '0')
}
