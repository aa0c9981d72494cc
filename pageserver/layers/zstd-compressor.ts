/**
 * Compresses into given memory with one kept context, as zstd-expander.ts expands: Node's one-shot
 * function makes a context and a result for each call, at twice the processor time. Where the
 * stream's handle cannot be used, the one-shot function does the work.
 */
import { constants, createZstdCompress, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { assert } from '#libs/errors.ts'
import type { ZlibContext } from './zstd-expander.ts'

const OPTIONS = { params: { [constants.ZSTD_c_compressionLevel]: 1 } }

let context = openContext()

/** Writes one zstd frame of level 1 to `target`, which has room for any; returns its length. */
export function compressZstd(raw: Buffer, target: Buffer): number {
  if (context) {
    const length = compressWith(context, raw, target)
    if (length > 0) return length
    context = openContext()
  }
  const stored = zstdCompressSync(raw, OPTIONS)
  assert(stored.length <= target.length, 'there is room for a compressed chunk')
  return stored.copy(target)
}

/** 0 when it did not work, or filled the target to the last byte and may lack its end. */
function compressWith({ handle, left }: ZlibContext, raw: Buffer, target: Buffer): number {
  left.fill(0xffffffff)
  handle.writeSync(constants.ZSTD_e_end, raw, 0, raw.length, target, 0, target.length)
  const [free = 0, unread = 0] = left
  return unread === 0 && free > 0 && free < target.length ? target.length - free : 0
}

function openContext(): ZlibContext | null {
  const stream = createZstdCompress(OPTIONS) as unknown as {
    _handle?: ZlibContext['handle'] & { onerror?: unknown }
    _writeState?: Uint32Array
  }
  const { _handle: handle, _writeState: left } = stream
  if (typeof handle?.writeSync !== 'function' || !(left instanceof Uint32Array)) return null
  handle.onerror = () => undefined
  const opened = { handle, left }
  const target = Buffer.alloc(20_000)
  try {
    for (const text of ['a trial of the kept context ', 'and another ']) {
      const trial = Buffer.alloc(9000, text)
      const length = compressWith(opened, trial, target)
      if (length === 0 || !zstdDecompressSync(target.subarray(0, length)).equals(trial)) return null
    }
  } catch {
    return null
  }
  return opened
}
