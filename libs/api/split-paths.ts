/** Methods and paths of `split.ts`, without their schemas (see control-paths.ts). */
export const splitPaths = {
  getSplit: { method: 'GET', path: '/v1/tenant/:tenantId/split' },
  splitTenant: { method: 'POST', path: '/v1/tenant/:tenantId/split' },
} as const
