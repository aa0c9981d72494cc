/**
 * Expands zstd frames with one kept context. Node's one-shot function makes a context for each
 * call, which costs more than the work itself for a chunk of some pages, and its garbage collection
 * as much again. Node offers no public way to keep one for synchronous use, so this reaches for the
 * stream's handle; a trial at start, and a check of every result's length, fall back to the
 * one-shot function if that ever stops working.
 */
import { constants, createZstdDecompress, zstdCompressSync, zstdDecompressSync } from 'node:zlib'

interface Handle {
  writeSync(
    flush: number,
    input: Buffer,
    inputOffset: number,
    inputLength: number,
    output: Buffer,
    outputOffset: number,
    outputLength: number,
  ): void
}

/** What is used of one of Node's streams. */
export interface ZlibContext {
  handle: Handle
  /** [output bytes left, input bytes left] after a write. */
  left: Uint32Array
}

let context: ZlibContext | null = openContext()

/**
 * Expands one frame, whose checksum the caller has checked, to `rawBytes`. The caller checks the
 * length. Throws when the frame is bad or holds more.
 */
export function expandZstd(stored: Buffer, rawBytes: number): Buffer {
  const raw = Buffer.allocUnsafeSlow(rawBytes)
  if (context && expandWith(context, stored, raw)) return raw
  // A frame that fails leaves the context in its middle.
  if (context) context = openContext()
  return zstdDecompressSync(stored, { maxOutputLength: rawBytes })
}

function expandWith({ handle, left }: ZlibContext, stored: Buffer, raw: Buffer): boolean {
  // A write that fails leaves the counters as they were.
  left.fill(0xffffffff)
  handle.writeSync(constants.ZSTD_e_end, stored, 0, stored.length, raw, 0, raw.length)
  return left[0] === 0 && left[1] === 0
}

function openContext(): ZlibContext | null {
  const stream = createZstdDecompress() as unknown as {
    _handle?: Handle & { onerror?: unknown }
    _writeState?: Uint32Array
  }
  const { _handle: handle, _writeState: left } = stream
  if (typeof handle?.writeSync !== 'function' || !(left instanceof Uint32Array)) return null
  handle.onerror = () => undefined
  const trial = Buffer.alloc(9000, 'a trial of the kept context ')
  const stored = zstdCompressSync(trial)
  const opened = { handle, left }
  try {
    for (let round = 0; round < 2; round++) {
      const raw = Buffer.alloc(trial.length)
      if (!expandWith(opened, stored, raw) || !raw.equals(trial)) return null
    }
  } catch {
    return null
  }
  return opened
}
