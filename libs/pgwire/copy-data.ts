/** Sending CopyData on a socket, the same for both sides of a connection. */
import type { Socket } from 'node:net'
import { TAG } from './messages.ts'

/** Up to this, one copy and one plain write cost less than handing over several pieces. */
const GATHERED_BYTES = 16 * 1024

/** Sends one CopyData made of the parts; false when the socket's buffer is full. */
export function writeCopyData(socket: Socket, parts: readonly Buffer[]): boolean {
  let length = 4
  for (const part of parts) length += part.length
  if (length <= GATHERED_BYTES) return socket.write(gathered(parts, length))
  const header = Buffer.allocUnsafe(5)
  header[0] = TAG.copyData
  header.writeUInt32BE(length, 1)
  socket.cork()
  let ok = socket.write(header)
  for (const part of parts) ok = socket.write(part)
  socket.uncork()
  return ok
}

function gathered(parts: readonly Buffer[], length: number): Buffer {
  const frame = Buffer.allocUnsafe(length + 1)
  frame[0] = TAG.copyData
  frame.writeUInt32BE(length, 1)
  let at = 5
  for (const part of parts) {
    frame.set(part, at)
    at += part.length
  }
  return frame
}

/** Resolves when the socket takes more, or is gone. */
export function socketDrained(socket: Socket): Promise<void> {
  if (!socket.writableNeedDrain || socket.destroyed) return Promise.resolve()
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done)
      socket.off('close', done)
      resolve()
    }
    socket.on('drain', done)
    socket.on('close', done)
  })
}
