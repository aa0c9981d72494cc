/** Methods and paths of the size limit; part of `controlPaths`. */
export const sizeLimitPaths = {
  getSizeLimit: { method: 'GET', path: '/v1/tenant/:tenantId/size-limit' },
  setSizeLimit: { method: 'PUT', path: '/v1/tenant/:tenantId/size-limit' },
} as const
