/** CopyData frames, as the Postgres protocol has them. */
const COPY_DATA = 0x64
export const MAX_FRAME_BYTES = 1024 * 1024

/** A CopyData message in one buffer. */
export function copyDataFrame(...parts: readonly Buffer[]): Buffer {
  let length = 5
  for (const part of parts) length += part.length
  const frame = Buffer.allocUnsafe(length)
  frame[0] = COPY_DATA
  frame.writeUInt32BE(length - 1, 1)
  let offset = 5
  for (const part of parts) offset += part.copy(frame, offset)
  return frame
}
