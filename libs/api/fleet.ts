/** Routes of the control plane for pageservers: which there are, and where tenants are. */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { fleetPaths } from './fleet-paths.ts'
import { IdText, Nullable, TenantParams } from './schemas.ts'

const Id = Type.Integer({ minimum: 1 })
const Shard = Type.Optional(
  Type.Integer({ minimum: 0, description: 'of a sharded tenant; default 0' }),
)

export const PageserverNode = Type.Object({
  id: Id,
  host: Type.String(),
  pgPort: Type.Integer(),
  httpPort: Type.Integer(),
  /** `draining` gets no new tenants; `removed` is out for good. */
  state: Type.Union([Type.Literal('active'), Type.Literal('draining'), Type.Literal('removed')]),
  answers: Type.Boolean(),
  /** Milliseconds since it was heard last; null while it answers. */
  silentMs: Nullable(Type.Integer()),
  /** Tenants, or shards of them, that it serves. */
  tenants: Type.Integer(),
  /** Of how many it keeps a warm copy. */
  secondaries: Type.Integer(),
})
export type PageserverNode = Static<typeof PageserverNode>

/** Where a tenant, or one shard of it, is, and how far a move of that is. */
export const TenantMoveInfo = Type.Object({
  tenantId: IdText,
  shard: Type.Integer(),
  pageserverId: Id,
  generation: Type.Integer(),
  secondary: Nullable(Id),
  move: Nullable(
    Type.Object({
      from: Id,
      to: Id,
      /** See docs/storage/fleet.md. */
      phase: Type.String(),
      /** The one that is left does not answer. */
      lost: Type.Boolean(),
      /** Bytes of layer files that the warm-up has still to copy; null before it is known. */
      missingBytes: Nullable(Type.Integer()),
      /** What it waits for, while something keeps it from going on. */
      problem: Nullable(Type.String()),
    }),
  ),
})
export type TenantMoveInfo = Static<typeof TenantMoveInfo>

export const fleetRoutes = routes({
  listPageservers: {
    ...fleetPaths.listPageservers,
    summary: 'Pageservers with how they are and how much they serve; the next free id',
    params: Type.Object({}),
    response: Type.Object({ pageservers: Type.Array(PageserverNode), nextId: Type.Integer() }),
  },
  setPageserverState: {
    ...fleetPaths.setPageserverState,
    summary: 'Let a pageserver take new tenants or none; take one out for good',
    params: Type.Object({ id: Id }),
    body: Type.Object({
      state: PageserverNode.properties.state,
      /** It does not come back: others take over what it has. */
      lost: Type.Optional(Type.Boolean()),
    }),
    response: PageserverNode,
  },
  listPlacements: {
    ...fleetPaths.listPlacements,
    summary: 'Where every tenant is, and how far moves are',
    params: Type.Object({}),
    response: Type.Array(TenantMoveInfo),
  },
  moveTenant: {
    ...fleetPaths.moveTenant,
    summary: 'Begin to move a tenant to another pageserver; it goes on by itself',
    params: TenantParams,
    body: Type.Object({ to: Id, shard: Shard }),
    response: TenantMoveInfo,
  },
  abortMove: {
    ...fleetPaths.abortMove,
    summary: 'Give up a move before the new pageserver is the holder',
    params: TenantParams,
    body: Type.Object({ shard: Shard }),
    response: TenantMoveInfo,
  },
  setSecondary: {
    ...fleetPaths.setSecondary,
    summary: 'Keep a warm copy of a tenant at a pageserver, or none',
    params: TenantParams,
    body: Type.Object({ pageserverId: Nullable(Id), shard: Shard }),
    response: TenantMoveInfo,
  },
})
