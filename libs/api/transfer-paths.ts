/** Methods and paths of export and import; part of `controlPaths`. */
export const transferPaths = {
  exportBranch: { method: 'POST', path: '/v1/tenant/:tenantId/branch/:name/export' },
  startImport: { method: 'POST', path: '/v1/tenant/:tenantId/import' },
  getImport: { method: 'GET', path: '/v1/tenant/:tenantId/import/:name' },
  stopImport: { method: 'POST', path: '/v1/tenant/:tenantId/import/:name/stop' },
} as const

const JOB = '/v1/tenant/:tenantId/timeline/:timelineId/import'

/** Those of the pageserver. */
export const importJobPaths = {
  startImportJob: { method: 'POST', path: JOB },
  getImportJob: { method: 'GET', path: JOB },
  abortImportJob: { method: 'POST', path: `${JOB}/abort` },
  finishFollowing: { method: 'POST', path: `${JOB}/finish` },
  catchUpFollowing: { method: 'POST', path: `${JOB}/catch-up` },
  dropSourceSlot: { method: 'POST', path: `${JOB}/drop-slot` },
} as const
