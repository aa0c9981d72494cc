/** Pageservers and safekeepers by id; a node that moved registers again with its new address. */
import type { NodeInfo } from '#libs/api/node-info.ts'
import { ZenithError } from '#libs/errors.ts'
import { type NodeKind, type NodeRecord, recordKey } from './records.ts'
import type { Registry } from './registry.ts'

/** Throws `conflict` for a node that was removed. */
export async function registerNode(
  registry: Registry,
  kind: NodeKind,
  node: NodeInfo,
): Promise<NodeInfo> {
  const key = recordKey.node(kind, node.id)
  await registry.update<NodeRecord>(key, (current) => {
    if (current?.state === 'removed') {
      const name = kind === 'safekeeper' ? 'Safekeeper' : 'Pageserver'
      throw new ZenithError('conflict', `${name} ${node.id} was removed.`, {
        hint: `Add it under a new id: zenith ${kind} add.`,
      })
    }
    if (current !== null && sameAddress(current, node)) return current
    return current?.state === undefined ? node : { ...node, state: current.state }
  })
  return node
}

function sameAddress(a: NodeInfo, b: NodeInfo): boolean {
  return a.host === b.host && a.pgPort === b.pgPort && a.httpPort === b.httpPort
}
