/** The part of the control plane's API that tells a pageserver whether it is still the newest. */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { generationPaths } from './generation-paths.ts'
import { NodeParams, TenantShardText } from './schemas.ts'

/** A tenant under the generation that a pageserver holds it. */
export const TenantGeneration = Type.Object({
  tenantId: TenantShardText,
  generation: Type.Integer({ minimum: 0 }),
})
export type TenantGeneration = Static<typeof TenantGeneration>

export const generationRoutes = routes({
  validateGenerations: {
    ...generationPaths.validateGenerations,
    summary: 'Which of these generations are the newest of their tenants, at this moment',
    params: NodeParams,
    body: Type.Object({ tenants: Type.Array(TenantGeneration, { maxItems: 5000 }) }),
    response: Type.Object({ valid: Type.Array(TenantGeneration) }),
  },
})
