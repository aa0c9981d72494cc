/**
 * The beginning of a connection, up to where a session may start: encryption, start-up packet,
 * password. Formats: Postgres manual, 53.2.1, 53.2.10, 53.7.
 *
 * ```
 * SSLRequest:  length u32 = 8 | 80877103         answered by one byte, S (TLS follows) or N
 * start-up:    length u32 | 196608 | n x (name cstr, value cstr) | 0
 * password:    'p' | length u32 | cstr
 * ```
 */
import type { Socket } from 'node:net'
import { type SecureContext, TLSSocket } from 'node:tls'
import { ZenithError } from '../errors.ts'
import { message, TAG } from './messages.ts'

const SSL_REQUEST = 80877103
const GSS_REQUEST = 80877104
const CANCEL_REQUEST = 80877102
const PROTOCOL_3 = 3
const MAX_STARTUP_BYTES = 10_000
const MAX_PASSWORD_BYTES = 8 * 1024
const ASK_FOR_PASSWORD = message(TAG.authentication, Buffer.from([0, 0, 0, 3]))

export interface Startup {
  /** The one to go on with: encrypted, if that was asked for. */
  socket: Socket
  parameters: Map<string, string>
  /** Bytes that came after it. */
  rest: Buffer
}

/**
 * Reads up to the start-up packet; null when the client went away or wanted no session. With `tls`
 * a start-up packet in the clear is refused: no password is asked for, so none is shown. Throws
 * `invalid_argument`, `unsupported` or `unauthenticated` for what a client should hear of.
 */
export async function readStartup(
  socket: Socket,
  tls: SecureContext | null,
): Promise<Startup | null> {
  let current = socket
  let rest: Buffer = Buffer.alloc(0)
  for (;;) {
    const packet = await readMessage(current, rest, startupLength)
    if (packet === null) return null
    rest = packet.rest
    const code = packet.bytes.readUInt32BE(4)
    if (code === CANCEL_REQUEST) return null
    if (code === GSS_REQUEST) {
      current.write('N')
    } else if (code === SSL_REQUEST) {
      if (tls === null || current !== socket) {
        current.write('N')
        continue
      }
      // What came with the request is not encrypted, and whoever put it there may be somebody else.
      if (rest.length > 0) {
        throw new ZenithError('invalid_argument', 'there is plaintext where TLS should begin')
      }
      current = await encrypt(socket, tls)
    } else if (code >>> 16 === PROTOCOL_3) {
      if (tls !== null && current === socket) {
        throw new ZenithError('unauthenticated', 'this port takes encrypted connections only', {
          hint: 'Connect with sslmode=verify-full and sslrootcert.',
        })
      }
      return { socket: current, parameters: parseParameters(packet.bytes.subarray(8)), rest }
    } else {
      throw new ZenithError('unsupported', `protocol version ${code >>> 16} is not 3`)
    }
  }
}

/** Asks for the password and reads it; null when the client went away. */
export async function readPassword(
  socket: Socket,
  before: Buffer,
): Promise<{ password: string; rest: Buffer } | null> {
  socket.write(ASK_FOR_PASSWORD)
  const packet = await readMessage(socket, before, passwordLength)
  if (packet === null) return null
  const text = packet.bytes.subarray(5)
  const end = text.indexOf(0)
  return { password: text.toString('utf8', 0, end < 0 ? text.length : end), rest: packet.rest }
}

/** Length of the whole packet, once its first bytes are there. Throws on an impossible one. */
function startupLength(bytes: Buffer): number | null {
  if (bytes.length < 8) return null
  const length = bytes.readUInt32BE(0)
  if (length >= 8 && length <= MAX_STARTUP_BYTES) return length
  throw new ZenithError('invalid_argument', `a start-up packet of ${length} bytes`)
}

function passwordLength(bytes: Buffer): number | null {
  if (bytes.length < 5) return null
  const length = bytes.readUInt32BE(1)
  if (bytes[0] === TAG.password && length >= 4 && length <= MAX_PASSWORD_BYTES) return length + 1
  throw new ZenithError('invalid_argument', 'a password was asked for, and something else came')
}

/** Gathers bytes until a packet is whole. Both kinds are short, so that joining them costs nothing. */
function readMessage(
  socket: Socket,
  before: Buffer,
  lengthOf: (bytes: Buffer) => number | null,
): Promise<{ bytes: Buffer; rest: Buffer } | null> {
  return new Promise((resolve, reject) => {
    let pending = before
    const finish = (end: () => void) => {
      socket.off('data', onData)
      socket.off('close', onClose)
      socket.off('end', onClose)
      socket.pause()
      end()
    }
    const look = () => {
      try {
        const length = lengthOf(pending)
        if (length === null || pending.length < length) return
        const [bytes, rest] = [pending.subarray(0, length), pending.subarray(length)]
        finish(() => resolve({ bytes, rest }))
      } catch (error) {
        finish(() => reject(error as Error))
      }
    }
    const onClose = () => finish(() => resolve(null))
    const onData = (chunk: Buffer) => {
      pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk])
      look()
    }
    socket.on('data', onData)
    socket.on('close', onClose)
    socket.on('end', onClose)
    // The packet before may have left it paused, and a listener alone does not change that.
    socket.resume()
    if (socket.destroyed) onClose()
    else {
      // Paused since the message before: what follows it is the next reader's.
      socket.resume()
      if (pending.length > 0) look()
    }
  })
}

function encrypt(socket: Socket, secureContext: SecureContext): Promise<Socket> {
  return new Promise((resolve, reject) => {
    socket.write('S')
    const secure = new TLSSocket(socket, { isServer: true, secureContext })
    const finish = (end: () => void) => {
      secure.off('secure', onSecure)
      secure.off('close', onClose)
      end()
    }
    const onSecure = () => finish(() => resolve(secure))
    const onClose = () =>
      finish(() => reject(new ZenithError('unavailable', 'the client ended the TLS handshake')))
    // Errors end the connection, and 'close' follows.
    secure.on('error', () => secure.destroy())
    secure.once('secure', onSecure)
    secure.once('close', onClose)
  })
}

function parseParameters(body: Buffer): Map<string, string> {
  const words = body.toString('utf8').split('\0')
  const parameters = new Map<string, string>()
  for (let index = 0; index + 1 < words.length && words[index] !== ''; index += 2) {
    parameters.set(words[index] as string, words[index + 1] as string)
  }
  return parameters
}
