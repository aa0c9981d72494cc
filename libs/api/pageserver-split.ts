/** What is left of shards that were split, in the pageserver's HTTP API. */
import { routes } from '#libs/http/route.ts'
import { Type } from 'typebox'
import { TenantShardText } from './schemas.ts'

const TenantParams = Type.Object({ tenantId: TenantShardText })

export const pageserverSplitRoutes = routes({
  borrowed: {
    method: 'GET',
    path: '/v1/tenant/:tenantId/borrowed',
    summary: 'Objects of former shards that a shard refers to; 503 while that is not known',
    params: TenantParams,
    response: Type.Object({
      /** Under which this was said. */
      generation: Type.Integer(),
      objects: Type.Array(Type.String()),
    }),
  },
  sweepFormer: {
    method: 'POST',
    path: '/v1/tenant/:tenantId/sweep-former',
    summary: 'Delete what is left of a former shard, but for some objects',
    bodyLimitBytes: 256 * 1024 * 1024,
    params: TenantParams,
    body: Type.Object({ former: TenantShardText, keep: Type.Array(Type.String()) }),
    response: Type.Object({
      /** Objects that were kept. */
      left: Type.Integer(),
    }),
  },
})
