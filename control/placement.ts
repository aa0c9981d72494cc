/** Which nodes and ports a new thing gets. Pure: equal input gives equal output. */
import { createHash } from 'node:crypto'
import { ZenithError } from '#libs/errors.ts'
import type { NodeRecord } from './records.ts'

/** More members cost latency and disk; three bear the loss of one. */
const QUORUM_SIZE = 3

/**
 * Chooses the quorum of a tenant: at most three safekeepers,
 * by rendezvous hashing, so that tenants spread evenly and the choice is stable.
 * Throws `precondition_failed` when none is registered.
 */
export function chooseSafekeepers(tenantId: string, nodes: readonly NodeRecord[]): number[] {
  const usable = nodes.filter(({ state }) => state === undefined)
  if (usable.length === 0) {
    throw new ZenithError('precondition_failed', 'No safekeeper takes new timelines.', {
      hint: 'Start the services first: zenith start. To add one: zenith safekeeper add.',
    })
  }
  return rank(tenantId, usable)
    .slice(0, Math.min(QUORUM_SIZE, usable.length))
    .map(({ id }) => id)
    .sort((a, b) => a - b)
}

function rank(tenantId: string, nodes: readonly NodeRecord[]): NodeRecord[] {
  const score = (node: NodeRecord) =>
    createHash('sha256').update(`${tenantId}/${node.id}`).digest('hex')
  return [...nodes].sort((a, b) => (score(a) < score(b) ? -1 : 1))
}

/** Ports to try for an endpoint, in order: the one used last, then upward from the first. */
export function* candidatePorts(options: {
  lastPort: number | null
  firstPort: number
  reserved: ReadonlySet<number>
}): Generator<number> {
  const { lastPort, firstPort, reserved } = options
  if (lastPort !== null && !reserved.has(lastPort)) yield lastPort
  for (let port = firstPort; port <= 65535; port++) {
    if (port !== lastPort && !reserved.has(port)) yield port
  }
}
