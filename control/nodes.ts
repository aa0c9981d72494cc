/** Pageservers and safekeepers by id; a node that moved registers again with its new address. */
import type { NodeInfo } from '#libs/api/control.ts'
import { type NodeKind, type NodeRecord, recordKey } from './records.ts'
import type { Registry } from './registry.ts'

export async function registerNode(
  registry: Registry,
  kind: NodeKind,
  node: NodeInfo,
): Promise<NodeInfo> {
  const key = recordKey.node(kind, node.id)
  await registry.update<NodeRecord>(key, (current) =>
    current !== null && sameAddress(current, node) ? current : node,
  )
  return node
}

function sameAddress(a: NodeInfo, b: NodeInfo): boolean {
  return a.host === b.host && a.pgPort === b.pgPort && a.httpPort === b.httpPort
}
