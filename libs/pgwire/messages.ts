/** Message tags of the Postgres protocol (manual, 53.7), and the frame around a body. */
export const TAG = {
  authentication: 0x52, // R
  backendKeyData: 0x4b, // K
  commandComplete: 0x43, // C
  copyBoth: 0x57, // W
  copyData: 0x64, // d
  copyDone: 0x63, // c
  copyFail: 0x66, // f
  copyIn: 0x47, // G
  copyOut: 0x48, // H
  dataRow: 0x44, // D
  emptyQuery: 0x49, // I
  error: 0x45, // E
  notice: 0x4e, // N
  parameterStatus: 0x53, // S
  password: 0x70, // p
  query: 0x51, // Q
  readyForQuery: 0x5a, // Z
  rowDescription: 0x54, // T
  terminate: 0x58, // X
} as const

/** One message: tag, length, body parts. For control messages; data paths write their own frames. */
export function message(tag: number, ...parts: readonly Buffer[]): Buffer {
  let length = 4
  for (const part of parts) length += part.length
  const frame = Buffer.allocUnsafe(length + 1)
  frame[0] = tag
  frame.writeUInt32BE(length, 1)
  let offset = 5
  for (const part of parts) {
    part.copy(frame, offset)
    offset += part.length
  }
  return frame
}
