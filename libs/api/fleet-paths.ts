/** Methods and paths of `fleet.ts`, without their schemas (see control-paths.ts). */
export const fleetPaths = {
  listPageservers: { method: 'GET', path: '/v1/pageserver' },
  setPageserverState: { method: 'POST', path: '/v1/pageserver/:id/state' },
  listPlacements: { method: 'GET', path: '/v1/placement' },
  moveTenant: { method: 'POST', path: '/v1/tenant/:tenantId/move' },
  abortMove: { method: 'POST', path: '/v1/tenant/:tenantId/move/abort' },
  setSecondary: { method: 'PUT', path: '/v1/tenant/:tenantId/secondary' },
} as const
