/**
 * The limit on the size of a tenant's clusters, in the control plane's HTTP API: one table of routes,
 * part of `controlRoutes`.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { Nullable, TenantParams } from './schemas.ts'
import { sizeLimitPaths } from './size-limit-paths.ts'

export const SizeLimit = Type.Object({
  /** What all databases of one branch together may have; null = any number of bytes. */
  maxBytes: Nullable(Type.Integer({ minimum: 1024 * 1024 })),
})
export type SizeLimit = Static<typeof SizeLimit>

export const StoredSizeLimit = Type.Object({
  ...SizeLimit.properties,
  /** Endpoints that run and did not take it yet; they are told again every few seconds. */
  behind: Type.Array(Type.String()),
})
export type StoredSizeLimit = Static<typeof StoredSizeLimit>

export const sizeLimitRoutes = routes({
  getSizeLimit: {
    ...sizeLimitPaths.getSizeLimit,
    summary: 'How large the cluster of a branch may become',
    params: TenantParams,
    response: SizeLimit,
  },
  setSizeLimit: {
    ...sizeLimitPaths.setSizeLimit,
    summary: 'Set how large the cluster of a branch may become; running computes take it at once',
    params: TenantParams,
    body: SizeLimit,
    response: StoredSizeLimit,
  },
})
