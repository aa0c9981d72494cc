/**
 * Methods and paths of the pageserver's routes that a compute uses, without their schemas: loading
 * those would take longer than the request.
 */
export const pageserverPaths = {
  putStatistics: {
    method: 'PUT',
    path: '/v1/tenant/:tenantId/timeline/:timelineId/statistics',
  },
} as const
