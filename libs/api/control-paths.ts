import { historyPaths } from './history-paths.ts'
import { fleetPaths } from './fleet-paths.ts'
import { lifecyclePaths } from './lifecycle-paths.ts'
import { sizeLimitPaths } from './size-limit-paths.ts'
import { splitPaths } from './split-paths.ts'
import { autosplitPaths } from './autosplit-paths.ts'
import { transferPaths } from './transfer-paths.ts'
import { generationPaths } from './generation-paths.ts'

/**
 * Methods and paths of the control plane's routes, without their schemas: loading those takes
 * longer than a request, and clients such as the CLI do not check what they send.
 */
export const controlPaths = {
  ...fleetPaths,
  ...splitPaths,
  ...autosplitPaths,
  ...generationPaths,
  listNodes: { method: 'GET', path: '/v1/node' },
  registerPageserver: { method: 'PUT', path: '/v1/pageserver/:id' },
  registerSafekeeper: { method: 'PUT', path: '/v1/safekeeper/:id' },
  listSafekeepers: { method: 'GET', path: '/v1/safekeeper' },
  inspectSafekeepers: { method: 'GET', path: '/v1/safekeeper/inspect' },
  setSafekeeperState: { method: 'POST', path: '/v1/safekeeper/:id/state' },
  listMembers: { method: 'GET', path: '/v1/members' },
  getMembers: { method: 'GET', path: '/v1/tenant/:tenantId/timeline/:timelineId/members' },
  changeMembers: { method: 'POST', path: '/v1/tenant/:tenantId/timeline/:timelineId/members' },
  abortMembers: {
    method: 'POST',
    path: '/v1/tenant/:tenantId/timeline/:timelineId/members/abort',
  },
  reAttach: { method: 'POST', path: '/v1/re-attach' },
  issueNodeToken: { method: 'POST', path: '/v1/node-token' },
  listTenants: { method: 'GET', path: '/v1/tenant' },
  createTenant: { method: 'POST', path: '/v1/tenant' },
  getTenant: { method: 'GET', path: '/v1/tenant/:tenantId' },
  listTimelines: { method: 'GET', path: '/v1/tenant/:tenantId/timeline' },
  listBranches: { method: 'GET', path: '/v1/tenant/:tenantId/branch' },
  createBranch: { method: 'POST', path: '/v1/tenant/:tenantId/branch' },
  listEndpoints: { method: 'GET', path: '/v1/tenant/:tenantId/endpoint' },
  createEndpoint: { method: 'POST', path: '/v1/tenant/:tenantId/endpoint' },
  getEndpoint: { method: 'GET', path: '/v1/tenant/:tenantId/endpoint/:name' },
  startEndpoint: { method: 'POST', path: '/v1/tenant/:tenantId/endpoint/:name/start' },
  reportEndpoint: { method: 'POST', path: '/v1/tenant/:tenantId/endpoint/:name/status' },
  stopEndpoint: { method: 'POST', path: '/v1/tenant/:tenantId/endpoint/:name/stop' },
  promoteEndpoint: { method: 'POST', path: '/v1/tenant/:tenantId/endpoint/:name/promote' },
  renewToken: { method: 'POST', path: '/v1/tenant/:tenantId/endpoint/:name/token' },
  changeSettings: { method: 'POST', path: '/v1/tenant/:tenantId/endpoint/:name/settings' },
  storeSystemSettings: {
    method: 'PUT',
    path: '/v1/tenant/:tenantId/endpoint/:name/system-settings',
  },
  deleteEndpoint: { method: 'DELETE', path: '/v1/tenant/:tenantId/endpoint/:name' },
  ...historyPaths,
  ...sizeLimitPaths,
  ...lifecyclePaths,
  ...transferPaths,
} as const
