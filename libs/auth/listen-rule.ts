/** A service that checks nobody listens where only this machine can reach it. */
import { isIPv4 } from 'node:net'
import { ZenithError } from '../errors.ts'

/** Whether only processes of this machine can connect to an address. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'))
}

/** Throws `invalid_argument` for an address that others can reach while nothing is checked there. */
export function checkListenAddress(
  service: string,
  hosts: readonly string[],
  checks: { auth: boolean; insecure: boolean },
): void {
  if (checks.auth || checks.insecure) return
  const open = hosts.find((host) => !isLoopback(host))
  if (open === undefined) return
  throw new ZenithError(
    'invalid_argument',
    `the ${service} would listen on ${open} and let everybody in, since its settings have no [auth]`,
    {
      hint: 'Listen on 127.0.0.1, set up auth (docs/security.md), or say insecure = true if the network itself keeps strangers out.',
    },
  )
}
