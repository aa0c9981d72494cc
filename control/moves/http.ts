/** The HTTP side of pageservers, moves and splits: routes of `#libs/api/fleet.ts`, `split.ts`, `autosplit.ts`. */
import type { autosplitRoutes } from '#libs/api/autosplit.ts'
import type { ControlRoutes } from '#libs/api/control.ts'
import type { fleetRoutes } from '#libs/api/fleet.ts'
import type { splitRoutes } from '#libs/api/split.ts'
import type { RouteHandlers } from '#libs/http/serve-routes.ts'
import type { Autosplit } from './autosplit.ts'
import type { Moves } from './moves.ts'
import type { Pageservers } from './pageservers.ts'
import type { Splits } from './splits.ts'
import type { Spreads } from './spreads.ts'

type Handlers = Pick<
  RouteHandlers<ControlRoutes>,
  keyof typeof fleetRoutes | keyof typeof splitRoutes | keyof typeof autosplitRoutes
>

export interface MoveParts {
  moves: Moves
  splits: Splits
  spreads: Spreads
  autosplit: Autosplit
  pageservers: Pageservers
}

/** The handlers for the control plane's table of routes. */
export function moveHandlers({
  moves,
  splits,
  spreads,
  autosplit,
  pageservers,
}: MoveParts): Handlers {
  return {
    listPageservers: () => pageservers.list(),
    setPageserverState: ({ params, body }) =>
      pageservers.setState(params.id, body.state, body.lost === true),
    listPlacements: () => moves.list(),
    // Whoever places shards by hand wants them there.
    moveTenant: async ({ params, body }) => {
      await spreads.giveUp(params.tenantId)
      return moves.begin(params.tenantId, body.shard ?? 0, body.to)
    },
    abortMove: async ({ params, body }) => {
      await spreads.giveUp(params.tenantId)
      return moves.abort(params.tenantId, body.shard ?? 0)
    },
    setSecondary: ({ params, body }) =>
      moves.setSecondary(params.tenantId, body.shard ?? 0, body.pageserverId),
    getSplit: ({ params }) => splits.get(params.tenantId),
    splitTenant: ({ params, body }) => splits.begin(params.tenantId, body),
    getSplitPolicy: ({ params }) => autosplit.get(params.tenantId),
    setSplitPolicy: ({ params, body }) => autosplit.set(params.tenantId, body),
  }
}
