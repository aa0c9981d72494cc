/** Methods and paths of `autosplit.ts`, without their schemas (see control-paths.ts). */
export const autosplitPaths = {
  getSplitPolicy: { method: 'GET', path: '/v1/tenant/:tenantId/split-policy' },
  setSplitPolicy: { method: 'PUT', path: '/v1/tenant/:tenantId/split-policy' },
} as const
