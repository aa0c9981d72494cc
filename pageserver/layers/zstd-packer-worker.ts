/**
 * The packer thread: compresses one chunk after the other, as one zstd frame of level 1 each, and
 * computes the checksum of what is to be stored. It sleeps when there is nothing to do.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { crc32 } from 'node:zlib'
import { assert } from '#libs/errors.ts'
import { savesEnough } from './layer-format.ts'
import { PackSlots } from './pack-slots.ts'
import { compressZstd } from './zstd-compressor.ts'

assert(parentPort !== null, 'the packer runs as a thread')
const slots = new PackSlots(workerData as SharedArrayBuffer)

while (true) {
  const slot = slots.next()
  const raw = slots.raw(slot, slots.rawBytes(slot))
  const stored = slots.stored(slot)
  const length = compressZstd(raw, stored)
  const isSmaller = savesEnough(length, raw.length)
  const crc = crc32(isSmaller ? stored.subarray(0, length) : raw)
  if (slots.finish(slot, isSmaller ? length : 0, crc)) parentPort.postMessage(null)
}
