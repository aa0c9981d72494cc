/** TLS to a stock Postgres, by the modes of libpq's sslmode. */
import type { Socket } from 'node:net'
import { isIP } from 'node:net'
import { connect } from 'node:tls'
import { errorMessage, ZenithError } from '../errors.ts'
import { askForTls, placeOf } from './client-tls.ts'

/** `allow` is taken as `prefer`. */
export type SslMode = 'disable' | 'prefer' | 'require' | 'verify-ca' | 'verify-full'

export interface StockTls {
  mode: SslMode
  /** Certificates (PEM) that vouch for the server; null: those that this machine trusts. */
  ca: string | null
}

/**
 * Resolves with the encrypted socket, or with the plain one where mode `prefer` allows that. Throws
 * `unavailable` when the server has no TLS, or shows a certificate that the mode does not accept.
 */
export async function encryptForStock(
  socket: Socket,
  host: string,
  { mode, ca }: StockTls,
): Promise<Socket> {
  if (mode === 'disable') return socket
  const where = placeOf(socket, host)
  if (!(await askForTls(socket, where))) {
    // It rests since the answer came; nothing more comes before we ask for something.
    if (mode === 'prefer') return socket.resume()
    throw new ZenithError('unavailable', `${where} does not speak TLS`, {
      hint: `sslmode=${mode} asks for it; without it the connection is not encrypted.`,
    })
  }
  const verifies = mode === 'verify-ca' || mode === 'verify-full'
  return await new Promise((resolve, reject) => {
    const secure = connect({
      socket,
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ...(ca === null ? {} : { ca }),
      rejectUnauthorized: verifies,
      ...(mode === 'verify-full' ? {} : { checkServerIdentity: () => undefined }),
      ...(isIP(host) === 0 ? {} : { host }),
    })
    const fail = (error?: Error) => {
      const reason = error === undefined ? 'it closed the connection' : errorMessage(error)
      secure.destroy()
      reject(new ZenithError('unavailable', `no TLS connection to ${where}: ${reason}`))
    }
    const onClose = () => fail()
    secure.once('error', fail)
    secure.once('close', onClose)
    secure.once('secureConnect', () => {
      secure.off('error', fail)
      secure.off('close', onClose)
      resolve(secure)
    })
  })
}
