/**
 * The client's side of SSLRequest (Postgres manual, 53.2.11): asks in the clear, and goes on only if
 * the server agrees and proves who it is. There is no falling back to plaintext.
 */
import type { Socket } from 'node:net'
import type { ClientTls } from '../auth/credentials.ts'
import { errorMessage, ZenithError } from '../errors.ts'

// Loaded when first used: most connections of most processes are plain.
const tlsModule = () => process.getBuiltinModule('node:tls')

const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])
const AGREED = 0x53 // S

/**
 * Resolves with the encrypted socket. Throws `unavailable` when the server refuses, speaks anything
 * older than TLS 1.3, or shows a certificate that is not for `host` or not from `tls.ca`.
 */
export async function encryptSocket(socket: Socket, host: string, tls: ClientTls): Promise<Socket> {
  const where = placeOf(socket, host)
  if (!(await askForTls(socket, where))) {
    throw new ZenithError('unavailable', `${where} does not speak TLS, which is required here`, {
      hint: "Set its tls.mode to 'require'.",
    })
  }
  const { connect } = tlsModule()
  return new Promise((resolve, reject) => {
    const secure = connect({ socket, host, ca: tls.ca, minVersion: 'TLSv1.3' })
    const onEarlyEnd = (error?: Error) => {
      const reason = error === undefined ? 'it closed the connection' : errorMessage(error)
      secure.destroy()
      reject(new ZenithError('unavailable', `no TLS connection to ${where}: ${reason}`))
    }
    const onClose = () => onEarlyEnd()
    secure.once('error', onEarlyEnd)
    secure.once('close', onClose)
    secure.once('secureConnect', () => {
      secure.off('error', onEarlyEnd)
      secure.off('close', onClose)
      resolve(secure)
    })
  })
}

/** The server, for messages; its port is known once it has answered. */
export function placeOf({ remotePort }: Socket, host: string): string {
  return remotePort === undefined ? host : `${host}:${remotePort}`
}

/** Asks in the clear whether the server speaks TLS. Throws `unavailable` for any other answer than one byte. */
export async function askForTls(socket: Socket, where: string): Promise<boolean> {
  // Told by whoever listens at that moment; an error that nobody listens to would end the process.
  socket.on('error', () => {})
  socket.write(SSL_REQUEST)
  return (await firstByte(socket, where)) === AGREED
}

/** The server's answer is one byte; more of it in the clear could be put there by somebody else. */
function firstByte(socket: Socket, where: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const finish = (end: () => void) => {
      socket.off('data', onData)
      socket.off('error', onError)
      socket.off('close', onClose)
      socket.pause()
      end()
    }
    const fail = (reason: string) =>
      finish(() => reject(new ZenithError('unavailable', `connection to ${where}: ${reason}`)))
    const onData = (chunk: Buffer) => {
      if (chunk.length === 1) finish(() => resolve(chunk[0] as number))
      else fail('it answered a request for TLS with something else')
    }
    const onError = (error: Error) => fail(error.message)
    const onClose = () => fail('it was closed')
    socket.on('data', onData)
    socket.on('error', onError)
    socket.on('close', onClose)
  })
}
