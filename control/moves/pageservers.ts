/** Pageservers as nodes: which there are, how they are, and taking them out of service. */
import type { PageserverNode } from '#libs/api/fleet.ts'
import { ZenithError } from '#libs/errors.ts'
import { type NodeRecord, type PlacementRecord, recordKey } from '../records.ts'
import { addressOf, type Registry } from '../registry.ts'
import type { PageserverHealth } from './pageserver-health.ts'
import { servingParents } from './split-changes.ts'

export class Pageservers {
  readonly #registry: Registry
  readonly #health: PageserverHealth

  constructor(registry: Registry, health: PageserverHealth) {
    this.#registry = registry
    this.#health = health
  }

  /** Those in service, by id, and the first id that none has or had. */
  async list(): Promise<{ pageservers: PageserverNode[]; nextId: number }> {
    const all = await this.#registry.allNodes('pageserver')
    const placements = await this.#placements()
    return {
      pageservers: all
        .filter(({ state }) => state !== 'removed')
        .map((node) => this.#info(node, placements)),
      nextId: Math.max(0, ...all.map(({ id }) => id)) + 1,
    }
  }

  /**
   * Changes what a pageserver is for. One that is lost hands over what it has first. Throws
   * `precondition_failed` when it is to be removed and still serves a tenant.
   */
  async setState(
    id: number,
    state: PageserverNode['state'],
    lost: boolean,
  ): Promise<PageserverNode> {
    await this.#registry.node('pageserver', id)
    if (state === 'removed' && lost) {
      await this.#checkLost(id)
      await this.#store(id, 'draining')
      await this.#health.evacuate(id)
    }
    const placements = await this.#placements()
    if (state === 'removed') checkEmpty([...placements, ...(await this.#parents())], id)
    if (state === 'removed') await this.#forgetEverywhere(id)
    return this.#info(await this.#store(id, state), placements)
  }

  async #checkLost(id: number): Promise<void> {
    if (!this.#health.answers(id)) return
    throw new ZenithError('precondition_failed', `Pageserver ${id} answers: it is not lost.`, {
      hint: 'Without --lost its tenants are moved away while they are read.',
    })
  }

  #store(id: number, state: PageserverNode['state']): Promise<NodeRecord> {
    return this.#registry.change<NodeRecord>(recordKey.node('pageserver', id), (current) => ({
      ...addressOf(current),
      ...(state === 'active' ? {} : { state }),
    }))
  }

  /** Nobody goes back to it, or expects a warm copy there. */
  async #forgetEverywhere(id: number): Promise<void> {
    for (const { tenantId } of await this.#registry.tenants()) {
      await this.#registry.changeTenant(tenantId, (tenant) => {
        const { split } = tenant
        const all = [...tenant.placements, ...(split?.parents ?? [])]
        if (!all.some(({ secondary, home }) => secondary === id || home === id)) return tenant
        const forgotten = (of: readonly PlacementRecord[]) => of.map((one) => withoutNode(one, id))
        return {
          ...tenant,
          placements: forgotten(tenant.placements),
          ...(split === undefined
            ? {}
            : { split: { ...split, parents: forgotten(split.parents) } }),
        }
      })
    }
  }

  async #placements(): Promise<PlacementRecord[]> {
    return (await this.#registry.tenants()).flatMap(({ placements }) => placements)
  }

  /** What is still served by those that a split leaves. */
  async #parents(): Promise<PlacementRecord[]> {
    return (await this.#registry.tenants()).flatMap(servingParents)
  }

  #info(node: NodeRecord, placements: readonly PlacementRecord[]): PageserverNode {
    const answers = this.#health.answers(node.id)
    return {
      ...addressOf(node),
      state: node.state ?? 'active',
      answers,
      silentMs: answers ? null : Math.round(this.#health.silentMs(node.id)),
      tenants: placements.filter(({ pageserverId }) => pageserverId === node.id).length,
      secondaries: placements.filter(({ secondary }) => secondary === node.id).length,
    }
  }
}

function withoutNode(placement: PlacementRecord, id: number): PlacementRecord {
  const { home, ...rest } = placement
  return {
    ...rest,
    secondary: placement.secondary === id ? null : placement.secondary,
    ...(home === undefined || home === id ? {} : { home }),
  }
}

function checkEmpty(placements: readonly PlacementRecord[], id: number): void {
  const holds = placements.some(
    ({ pageserverId, move }) =>
      pageserverId === id || move?.to === id || (move?.from === id && !move.lost),
  )
  if (!holds) return
  throw new ZenithError('precondition_failed', `Pageserver ${id} still serves a tenant.`, {
    hint: 'zenith pageserver list shows what it holds; move that away first.',
  })
}
