/** `zenith pageserver list`: the pageservers, where each tenant is, and moves under way. */
import { callControl } from '#libs/api/control-client.ts'
import type { PageserverNode, TenantMoveInfo } from '#libs/api/fleet.ts'
import type { Installation } from '../installation/installation.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'
import { pageserverName } from './pageserver-names.ts'

export async function pageserverList(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const url = installation.controlUrl
  const [{ pageservers }, placements] = await Promise.all([
    callControl(url, 'listPageservers'),
    callControl(url, 'listPlacements'),
  ])
  const named = pageservers.map((node) => ({
    ...node,
    name: pageserverName(installation, node.id),
  }))
  context.show(
    { pageservers: named, tenants: placements },
    [
      nodeTable(installation, pageservers),
      tenantTable(installation, placements),
      ...hints(installation, pageservers),
    ].join('\n'),
  )
}

/** One line on a move that is under way. */
export function describeMove(installation: Installation, { move }: TenantMoveInfo): string {
  if (move === null) return 'not being moved'
  const places = describeWay(installation, move.from, move.to)
  const way = `${places}: ${move.lost ? 'take-over, ' : ''}${move.phase}`
  const missing =
    move.phase === 'warm-up' && move.missingBytes !== null && move.missingBytes > 0
      ? `, ${Math.ceil(move.missingBytes / (1024 * 1024))} MiB to copy`
      : ''
  const problem = move.problem === null ? '' : ` (waits: ${move.problem})`
  return way + missing + problem
}

/** From where to where. */
export function describeWay(installation: Installation, from: number, to: number): string {
  return `${pageserverName(installation, from)} -> ${pageserverName(installation, to)}`
}

function nodeTable(installation: Installation, nodes: readonly PageserverNode[]): string {
  return formatTable(
    ['PAGESERVER', 'ADDRESS', 'HTTP', 'STATE', 'TENANTS', 'WARM COPIES'],
    nodes.map(({ id, host, pgPort, httpPort, state, answers, tenants, secondaries }) => [
      pageserverName(installation, id),
      `${host}:${pgPort}`,
      `${host}:${httpPort}`,
      answers ? state : `${state}, does not answer`,
      tenants,
      secondaries,
    ]),
  )
}

function tenantTable(installation: Installation, placements: readonly TenantMoveInfo[]): string {
  const sharded = placements.some(({ shard }) => shard > 0)
  return formatTable(
    ['TENANT', ...(sharded ? ['SHARD'] : []), 'SERVED BY', 'GENERATION', 'WARM COPY', 'MOVE'],
    placements.map((one) => [
      one.tenantId,
      ...(sharded ? [one.shard] : []),
      pageserverName(installation, one.pageserverId),
      one.generation,
      one.secondary === null ? null : pageserverName(installation, one.secondary),
      one.move === null ? null : describeMove(installation, one),
    ]),
  )
}

function hints(installation: Installation, nodes: readonly PageserverNode[]): string[] {
  const lines = nodes
    .filter(({ answers, tenants }) => !answers && tenants > 0)
    .map(({ id }) => {
      const name = pageserverName(installation, id)
      return `${name} does not answer: "zenith start" starts it again; if it does not come back: "zenith pageserver remove ${name} --lost".\n`
    })
  if (nodes.length === 1) {
    lines.push('One pageserver serves all: "zenith pageserver add" starts another one.\n')
  }
  return lines
}
