/** Methods and paths of the life of branches; part of `controlPaths`. */
const BRANCH = '/v1/tenant/:tenantId/branch/:name'

export const lifecyclePaths = {
  deleteTenant: { method: 'DELETE', path: '/v1/tenant/:tenantId' },
  listBranchDetails: { method: 'GET', path: '/v1/tenant/:tenantId/branch-details' },
  getBranchDetails: { method: 'GET', path: BRANCH },
  deleteBranch: { method: 'DELETE', path: BRANCH },
  archiveBranch: { method: 'POST', path: `${BRANCH}/archive` },
  unarchiveBranch: { method: 'POST', path: `${BRANCH}/unarchive` },
  detachBranch: { method: 'POST', path: `${BRANCH}/detach` },
  resetBranch: { method: 'POST', path: `${BRANCH}/reset` },
  restoreBranch: { method: 'POST', path: `${BRANCH}/restore` },
  renameBranch: { method: 'POST', path: `${BRANCH}/rename` },
  protectBranch: { method: 'POST', path: `${BRANCH}/protect` },
} as const
