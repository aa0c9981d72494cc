/** Methods and paths of history; part of `controlPaths`. */
export const historyPaths = {
  getHistory: { method: 'GET', path: '/v1/tenant/:tenantId/history' },
  setHistory: { method: 'PUT', path: '/v1/tenant/:tenantId/history' },
  lsnAtTime: { method: 'GET', path: '/v1/tenant/:tenantId/branch/:name/lsn' },
  timeAtLsn: { method: 'GET', path: '/v1/tenant/:tenantId/branch/:name/time' },
} as const
