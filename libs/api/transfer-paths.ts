/** Methods and paths of export and import; part of `controlPaths`. */
export const transferPaths = {
  exportBranch: { method: 'POST', path: '/v1/tenant/:tenantId/branch/:name/export' },
} as const
